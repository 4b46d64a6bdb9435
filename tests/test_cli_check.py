"""``anybatch check``: what is proven, what is tried, and what their verdicts come to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx.parser
import pytest

import anybatch
from anybatch import ClosedError, DeviceError, Gears, InputError, Registry
from anybatch._cli import app
from anybatch._cli.check import check
from anybatch.safety import OutputSafety, Safety, Step, analyse
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE

DIGITS = Path(__file__).parents[1] / "examples" / "01_digits" / "digits.onnx"

SOFTMAX = "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { a = Relu(x) y = Softmax<axis=0>(a) z = Neg(x) }"
MLP = """g (float[n,2] x) => (float[n,2] y) <float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3,2] v = {1, 2, 3, 4, 5, 6}> {
    a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""
FOREIGN = "g (float[n,4] x) => (float[n,4] y) { y = mine.Foo(x) }"
MOVED = "g (float[n,4] x) => (float[4,m] y) { y = Transpose<perm=[1,0]>(x) }"
HEADS = "g (float[n,4] x) => (float[m,2] y) <int64[2] s = {-1, 2}> { y = Reshape(x, s) }"
AMBIGUOUS = "g (float[a,4] x, float[b,4] w) => (float[a,4] y) { y = Add(x, w) }"
FREE = "g (float[n,k] x) => (float[n,k] y) { y = Relu(x) }"
FIXED = "g (float[4,4] x) => (float[4,4] y) { y = Relu(x) }"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Call the command line, and return its exit code, output and errors."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app(["check", *map(str, arguments)], prog_name="anybatch")
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def fails(cli):
    """Call the command line, expect bad input, and return the one line on stderr without its prefix."""

    def call(*arguments, error="InputError"):
        result = cli(*arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result
        assert result.err.startswith(f"anybatch: {error}: ")
        return result.err.removeprefix(f"anybatch: {error}: ").rstrip("\n")

    return call


@pytest.fixture
def save(tmp_path):
    def save(graph, name="model.onnx"):
        proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17, "mine" : 1]>\n{graph}')
        path = tmp_path / name
        path.write_bytes(proto.SerializeToString())
        return path

    return save


@pytest.fixture
def affine(tmp_path):
    path = tmp_path / "affine.onnx"
    path.write_bytes(AFFINE.onnx_bytes)
    return path


class Distorting(FakeBackend):
    """A fake that changes what its sessions return.

    Args:
        distort: from the inputs of a launch and its results, to what comes back.
    """

    def __init__(self, distort=None, *, suffixes=frozenset(), opens=None, **arguments):
        super().__init__(arguments.pop("batching", Gears((1, 4, 8))), **arguments)
        self.suffixes = suffixes
        self._distort = distort
        self._opens = opens  # this model, whatever the file holds

    def _find(self, model):
        return self._opens or super()._find(model)

    def open(self, model, **arguments):
        session = super().open(model, **arguments)
        if self._distort is not None:
            execute = session.execute
            session.execute = lambda inputs, gear, out=None: self._distort(inputs, execute(inputs, gear))
        return session


def coupled(inputs: Mapping, outputs: Mapping):
    """Add to each row the mean of all rows of its launch."""
    return {name: array + array.mean(axis=0, keepdims=True) for name, array in outputs.items()}


def after_one_another():
    """Return a distortion that adds to each row what the launch before it answered for its first one."""
    last = {}

    def distort(_inputs, outputs):
        changed = {name: array + last.get(name, 0) for name, array in outputs.items()}
        last.update({name: array[:1].copy() for name, array in outputs.items()})
        return changed

    return distort


@pytest.fixture
def only(monkeypatch):
    """Have one backend and no other; return it."""

    def install(backend):
        registry = Registry([])
        registry._found[backend.name] = [("a distribution", backend)]
        monkeypatch.setattr("anybatch._registry.registry", lambda: registry)
        return backend

    return install


def columns(result, name):
    """Return the words of a table's line about a tensor."""
    (line,) = (line for line in result.out.splitlines() if line.split()[:2] in (["output", name], ["input", name]))
    return line.split()[2:]


# ----------------------------------------------------------------------------------------------------------- the proof


def test_coupled_rows_are_named(cli, save):
    model = save(SOFTMAX)
    result = cli(model)
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines() == [
        f"{model}: coupled: rows influence one another, so splitting or padding changes answers",
        "",
        "        name  rows    known    verdict      node  reason",
        "input   x     axis 0  named",
        "output  y     axis 0  guessed  coupled      y     Softmax normalises over axis 0, which holds the rows",
        "output  z     axis 0  proven   independent        row i depends on row i alone, in the same way for every i and every "
        "number of rows",
        "",
        "way of the rows to y  operator  rows",
        "x                     Input     axis 0 of (n, 4)",
        "a                     Relu      axis 0 of (n, 4)",
        "y                     Softmax   coupled here",
    ]


def test_coupled_rows_as_json(cli, save):
    result = cli(save(SOFTMAX), "--json")
    assert (result.code, result.err) == (1, "")
    document = result.json
    assert (document["verdict"], document["trial"]) == ("coupled", None)
    assert document["inputs"] == [{"name": "x", "axis": 0, "rows_per_row": 1, "certainty": "named"}]
    y, z = document["outputs"]
    assert (y["name"], y["verdict"], y["node"], y["basis"]) == ("y", "coupled", "y", "proof")
    assert y["reason"] == "node 'y' (Softmax) normalises over axis 0, which holds the rows"
    assert [step["operator"] for step in y["chain"]] == ["Input", "Relu", "Softmax"]
    assert (y["proof"], y["trial"], y["contradiction"]) == ("coupled", None, False)
    assert (z["name"], z["verdict"], z["node"], z["basis"]) == ("z", "independent", None, "proof")
    assert (z["batch_axis"], z["rows_per_row"], z["certainty"]) == (0, 1, "proven")


@pytest.mark.parametrize("graph", [MLP, FIXED])
@pytest.mark.parametrize("strict", [False, True])
def test_independent_rows_are_good(cli, save, graph, strict):
    model = save(graph)
    result = cli(model, *["--strict"] * strict)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{model}: independent: requests can be split and padded\n")
    assert "way of the rows" not in result.out


def test_no_backend_is_looked_for_without_need(cli, save, monkeypatch):
    monkeypatch.setattr("anybatch._registry.registry", lambda: pytest.fail("no backend is needed"))
    assert cli(save(MLP)).code == 0


def test_verbose_shows_the_way_of_independent_rows(cli):
    result = cli(DIGITS, "--verbose")
    assert result.code == 0
    assert result.out.splitlines()[-7:] == [
        "way of the rows to scores  operator  rows",
        "images                     Input     axis 0 of (n, 1, 8, 8)",
        "conv1                      Conv      axis 0 of (n, 16, 8, 8)",
        "conv2                      Conv      axis 0 of (n, 32, 8, 8)",
        "pool                       MaxPool   axis 0 of (n, 32, 4, 4)",
        "flatten                    Flatten   axis 0 of (n, 512)",
        "dense                      Gemm      axis 0 of (n, 10)",
    ]


def test_outputs_that_share_a_way_have_it_once(cli, save):
    result = cli(save(SOFTMAX.replace("z = Neg(x)", "z = Neg(y)")))
    assert result.out.count("way of the rows") == 1
    assert "way of the rows to y, z  operator" in result.out


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--strict",), 1)])
def test_unknown_is_said_and_strict_refuses_it(cli, save, flags, code):
    model = save(FOREIGN)
    result = cli(model, *flags)
    assert (result.code, result.err) == (code, "")
    assert result.out.startswith(f"{model}: unknown: not proven that requests can be split and padded\n")
    assert (
        " ".join(columns(result, "y")[3:]) == "unknown y mine.Foo is no operator of the domain 'mine' that the analysis knows"
    )
    assert "y                     Foo       unknown here\n" in result.out
    document = cli(model, "--json", *flags).json
    assert (document["verdict"], document["outputs"][0]["node"], document["outputs"][0]["basis"]) == ("unknown", "y", None)


def test_the_callers_word_settles_what_is_unknown(cli, save):
    result = cli(save(FOREIGN), "--independent", "y", "--strict")
    assert (result.code, result.err) == (0, "")
    assert "model.onnx: independent: " in result.out.splitlines()[0]
    assert "the caller declares it" in result.out
    (output,) = cli(save(FOREIGN), "--independent", "y", "--json").json["outputs"]
    assert (output["verdict"], output["basis"], output["proof"], output["node"]) == ("independent", "caller", "unknown", None)


def test_the_callers_word_does_not_outweigh_what_is_known(cli, only, save, affine):
    result = cli(save(SOFTMAX), "--independent", "y", "--independent", "z", "--json")
    assert result.code == 1
    assert [(each["verdict"], each["basis"]) for each in result.json["outputs"]] == [
        ("coupled", "proof"),
        ("independent", "proof"),
    ]
    only(Distorting(coupled))
    result = cli(affine, "--backend", "fake", "--independent", "y", "--json")
    assert result.code == 1
    assert [(each["verdict"], each["basis"]) for each in result.json["outputs"]] == [("coupled", "trial")]


def test_only_outputs_can_be_declared(fails, save):
    assert fails(save(SOFTMAX), "--independent", "x") == "--independent: expected outputs, of ['y', 'z'], got ['x']"


def test_batch_axis_is_the_callers_word(cli, save):
    model = save(AMBIGUOUS)
    assert columns(cli(model), "w")[-1] == "named"
    result = cli(model, "--batch-axis", "x=0", "--batch-axis", "w=NONE")
    assert columns(result, "x") == ["axis", "0", "told"]
    assert columns(result, "w") == ["none", "told"]
    columns_first = [word for name in "xyz" for word in ("--batch-axis", f"{name}=1")]
    result = cli(save(SOFTMAX), *columns_first)  # rows of 4 columns, normalised over what is now within each
    assert (result.code, columns(result, "y")[:4]) == (0, ["axis", "1", "told", "independent"])


def test_rows_per_row_are_the_callers_word(cli, save):
    model = save(HEADS)
    result = cli(model)
    assert columns(result, "y")[:6] == ["axis", "0,", "2", "each", "proven", "independent"]
    assert cli(model, "--batch-axis", "y=0", "--rows-per-row", "y=2").code == 0
    assert cli(model, "--batch-axis", "y=0", "--rows-per-row", "y=4").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-axis", "x"), "--batch-axis: expected NAME=VALUE, got 'x'"),
        (("--batch-axis", "x=first"), "--batch-axis: expected the index of an axis, or none, got 'first'"),
        (("--batch-axis", "x=0", "--batch-axis", "x=1"), "--batch-axis: expected each name once, got 'x' twice"),
        (("--batch-axis", "q=0"), "batch_axis names 'q', which is no input or output; those are ['x', 'y']"),
        (("--batch-axis", "x=2"), "batch_axis of 'x': expected an axis in 0..1, got 2"),
        (("--rows-per-row", "x=two"), "--rows-per-row: expected a whole number, got 'two'"),
        (("--rows-per-row", "x=0"), "--rows-per-row: expected 1 or more, got 0"),
        (("--device", "1"), "--device: for opening the model, which only --backend NAME does"),
        (
            ("--batch-sizes", "1,4", "--option", "a=1", "--seconds", "2", "--input", "x.npy", "--shape", "k=3"),
            "--batch-sizes, --option, --seconds, --input, --shape: for opening the model, which only --backend NAME does",
        ),
        (("--picture", "way.png"), "--picture way.png: expected a file that ends in .dot or .svg"),
        (("--picture", "nowhere/way.svg"), "--picture nowhere/way.svg: there is no folder 'nowhere'"),
        (
            ("--backend", "onnxruntime", "--batch-axis", "x=0", "--option", 'batch_axis={"x":0}'),
            "expected --option batch_axis or --batch-axis, got both",
        ),
        (("--backend", "onnxruntime", "--input", "rows.csv"), "rows.csv: expected a file that ends in .npz or .npy"),
        (("--backend", "onnxruntime", "--input", "none.npy"), "none.npy: there is no such file"),
        (("--backend", "onnxruntime", "--seconds", "0"), "expected seconds > 0, finite, got 0.0"),
        (
            ("--backend", "onnxruntime", "--shape", "q=3"),
            "free names ['q'], but the model's free dimensions are []",
        ),
    ],
)
def test_arguments_that_do_not_fit(fails, save, arguments, message):
    assert fails(save("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"), *arguments) == message


def test_files_that_are_no_models(fails, tmp_path):
    missing = tmp_path / "none.onnx"
    assert fails(missing, error="ModelError") == f"expected a model file, but '{missing}' does not exist"
    assert fails(tmp_path, error="ModelError") == f"expected a model file, but '{tmp_path}' is a folder"
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\xff" * 64)
    assert fails(garbage, error="ModelError").startswith(f"'{garbage}' is no ONNX model: ")
    assert fails(garbage, "--backend", "onnxruntime", error="ModelError")


def test_a_model_without_rows(fails, save):
    model = save("g (float x) => (float y) { y = Relu(x) }")
    assert fails(model, error="ModelError").startswith("no input has a batch axis, so there are no rows to batch")


# ----------------------------------------------------------------------------------------------------------- the trial


def test_trial_on_a_session(cli, only, affine):
    backend = only(Distorting())
    result = cli(affine, "--backend", "fake")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{affine}: independent: requests can be split and padded"
    assert lines[1].startswith(f"trial     {len(backend.launches)} launches in ")
    assert lines[1].endswith(" s on fake (NumPy, in memory), gears 1, 4, 8")
    assert lines[3].split() == ["name", "rows", "known", "verdict", "trial", "node", "reason"]
    assert columns(result, "y")[:7] == ["axis", "0", "proven", "independent", "no", "influence", "seen"]
    assert "CONTRADICTION" not in result.out
    assert backend.alive == 0


def test_trial_as_json(cli, only, affine):
    backend = only(Distorting())
    backend.name = "fake-sim"
    only(backend)
    document = cli(affine, "--backend", "fake-sim", "--batch-sizes", "2,6", "--json").json
    trial = document["trial"]
    assert (trial["backend"], trial["simulated"], trial["runtime"]) == ("fake-sim", True, "NumPy, in memory")
    assert trial["batching"] == {"kind": "Gears", "sizes": [2, 6], "pads": False}
    assert (trial["verdict"], trial["error"], trial["launches"]) == ("no influence seen", None, len(backend.launches))
    assert document["outputs"][0]["trial"] == "no influence seen"
    assert {launch.gear for launch in backend.launches} == {2, 6}


@pytest.mark.parametrize("distort", [coupled, after_one_another()])
def test_what_contradicts_the_proof_is_said_loudly(cli, only, affine, distort):
    only(Distorting(distort))
    result = cli(affine, "--backend", "fake")
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith(f"{affine}: coupled: ")
    assert "CONTRADICTION: the graph proves the rows of 'y' independent, but on fake they influence one another." in result.out
    assert "a defect of the backend" in result.out
    assert columns(result, "y")[:5] == ["axis", "0", "proven", "coupled", "coupled"]
    document = cli(affine, "--backend", "fake", "--json").json
    (output,) = document["outputs"]
    assert (output["verdict"], output["basis"], output["contradiction"]) == ("coupled", "trial", True)
    assert (output["proof"], output["trial"], output["node"]) == ("independent", "coupled", None)
    assert output["reason"] == document["trial"]["outputs"][0]["reason"]


def test_trial_finds_what_the_proof_cannot_tell(cli, only, save):
    model = save(FOREIGN)
    only(Distorting(coupled, opens=AFFINE))
    assert cli(model).code == 0
    result = cli(model, "--backend", "fake", "--json")
    (output,) = result.json["outputs"]
    assert (result.code, output["verdict"], output["basis"]) == (1, "coupled", "trial")
    assert (output["proof"], output["contradiction"]) == ("unknown", False)


def test_a_trial_that_sees_nothing_does_not_outweigh_a_proof(cli, save):
    result = cli(save(SOFTMAX), "--backend", "onnxruntime", "--seconds", "60", "--json")
    y, z = result.json["outputs"]
    assert (result.code, y["verdict"], y["basis"], y["trial"]) == (1, "coupled", "proof", "coupled")
    assert (z["verdict"], z["trial"]) == ("independent", "no influence seen")


def test_proof_takes_the_batch_axes_of_the_session(cli, only, save):
    """Where a session has rows elsewhere than the graph says, that is what counts: requests are cut there."""
    model = save("g (float[n,k] x) => (float[k,m] y) { y = Transpose<perm=[1,0]>(x) }")
    only(Distorting(opens=AFFINE))  # whose rows leave on axis 0
    alone = cli(model, "--json")
    assert (alone.code, alone.json["outputs"][0]["batch_axis"]) == (0, 1)
    result = cli(model, "--backend", "fake", "--json")
    (output,) = result.json["outputs"]
    assert (result.code, output["verdict"], output["basis"]) == (1, "coupled", "proof")
    assert output["reason"] == "'y' should hold 1 per row on axis 0, and holds 1 per row on axis 1"


@pytest.mark.parametrize(
    ("graph", "axes", "certainties"), [(MOVED, (0, 1), ["named", "proven"]), (FIXED, (0, 0), ["guessed", "proven"])]
)
def test_proof_stays_where_the_session_agrees(cli, save, graph, axes, certainties):
    result = cli(save(graph), "--backend", "onnxruntime", "--json")
    assert (result.code, result.json["verdict"]) == (0, "independent")
    tensors = [*result.json["inputs"], *result.json["outputs"]]
    assert [each["certainty"] for each in tensors] == certainties
    assert (tensors[0]["axis"], tensors[1]["batch_axis"]) == axes


def test_batch_axis_reaches_the_backend(cli, save):
    model = save(SOFTMAX.replace("Softmax<axis=0>", "Neg"))
    told = [word for name in "xyz" for word in ("--batch-axis", f"{name}=1")]
    result = cli(model, *told, "--backend", "onnxruntime", "--batch-sizes", "4", "--json")
    assert result.code == 0, result
    assert result.json["inputs"] == [{"name": "x", "axis": 1, "rows_per_row": 1, "certainty": "told"}]


def test_trial_with_rows_of_a_file_and_with_sizes(cli, fails, save, tmp_path):
    model = save(FREE)
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.ones((3, 5), np.float32), labels=np.zeros(3))
    assert cli(model, "--backend", "onnxruntime", "--input", rows).code == 0
    assert cli(model, "--backend", "onnxruntime", "--shape", "k=3").code == 0
    message = "--shape is for random inputs, but --input gives some"
    assert fails(model, "--backend", "onnxruntime", "--input", rows, "--shape", "k=3") == message
    np.savez(rows, x=np.ones((0, 5), np.float32))
    message = "expected inputs of at least one row to try with, got none"
    assert fails(model, "--backend", "onnxruntime", "--input", rows) == message


def test_a_failing_device_is_no_good_answer(cli, only, affine):
    only(Distorting(faults={("execute", 1): DeviceError("gone", backend="fake", operation="execute")}))
    result = cli(affine, "--backend", "fake")
    assert result.code == 1
    assert "          ended early by DeviceError: fake: execute failed: gone\n" in result.out
    assert columns(result, "y")[3:5] == ["independent", "unknown"]
    assert cli(affine, "--backend", "fake", "--json").code == 0  # only the first launch fails


def test_time_that_is_up_is_said(cli, only, affine):
    only(Distorting())
    result = cli(affine, "--backend", "fake", "--seconds", "1e-9")
    assert result.code == 0
    assert "          the time was up before everything was tried; --seconds gives it more\n" in result.out


def test_progress_of_a_trial_goes_to_a_terminal(cli, only, affine, monkeypatch):
    only(Distorting())
    shown = []

    class Progress:
        def __init__(self, what):
            self.what = what

        def __enter__(self):
            return lambda share: shown.append((self.what, share))

        def __exit__(self, *_):
            pass

    monkeypatch.setitem(check.__globals__, "progress", Progress)
    cli(affine, "--backend", "fake")
    assert shown[-1] == ("trying", 1.0)
    assert len(shown) > 1


# ------------------------------------------------------------------------------------------------------ compiled files


@pytest.fixture
def compiled(only, tmp_path):
    """Return a function that installs a backend that opens a compiled file, and returns that file."""

    def install(distort=None):
        only(Distorting(distort, suffixes=frozenset({".bin"}), opens=AFFINE))
        path = tmp_path / "model.bin"
        path.write_bytes(b"machine code")
        return path

    return install


def test_a_compiled_file_needs_a_backend(fails, compiled):
    message = "model.bin is a compiled file, which has no graph to analyse: --backend fake tries it on a device"
    assert fails(compiled()) == message


@pytest.mark.parametrize(("distort", "verdict", "code"), [(None, "unknown", 0), (coupled, "coupled", 1)])
def test_a_compiled_file_is_tried(cli, compiled, distort, verdict, code):
    model = compiled(distort)
    result = cli(model, "--backend", "fake")
    assert (result.code, result.err) == (code, "")
    assert result.out.startswith(f"{model}: {verdict}: ")
    assert "proof     none: model.bin is a compiled file, which has no graph to analyse\n" in result.out
    assert columns(result, "y")[:4] == ["axis", "0", "told", verdict]
    assert "CONTRADICTION" not in result.out
    document = cli(model, "--backend", "fake", "--json").json
    (output,) = document["outputs"]
    assert (document["inputs"], output["proof"], output["chain"]) == ([], None, [])
    assert (output["node"], output["reason"]) == (None, document["trial"]["outputs"][0]["reason"])
    assert output["basis"] == (None if distort is None else "trial")
    assert cli(model, "--backend", "fake", "--strict").code == 1


def test_a_compiled_file_has_no_picture(fails, compiled, tmp_path):
    message = "--picture draws the rows' way through a graph, but there is none: model.bin is a compiled file, which has no"
    assert fails(compiled(), "--backend", "fake", "--picture", tmp_path / "way.svg") == f"{message} graph to analyse"


def test_a_file_that_only_the_backend_reads(cli, only, tmp_path):
    only(Distorting(opens=AFFINE))
    model = tmp_path / "model"
    model.write_bytes(b"\xff" * 64)
    result = cli(model, "--backend", "fake")
    assert result.code == 0
    assert f"proof     none: '{model}' is no ONNX model: " in result.out


@pytest.mark.parametrize(
    "graph", [MLP.replace("] x)", "] q)").replace("(x, w)", "(q, w)"), "g (float x) => (float y) { y = Neg(x) }"]
)
def test_a_session_of_other_tensors_leaves_no_proof(cli, fails, only, save, tmp_path, graph):
    only(Distorting(opens=AFFINE))
    model = save(graph)
    result = cli(model, "--backend", "fake")
    assert result.code == 0
    assert "proof     none: the session's rows are not in the graph: batch_axis " in result.out
    message = fails(model, "--backend", "fake", "--picture", tmp_path / "way.svg")
    assert message.startswith("--picture draws what is proven on the graph, but nothing is: the session's rows are not in")
    assert not (tmp_path / "way.svg").exists()


# ------------------------------------------------------------------------------------------------------------ pictures


def texts(svg):
    root = ElementTree.fromstring(svg)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_picture_of_a_coupled_model(cli, save, tmp_path):
    model, file = save(SOFTMAX), tmp_path / "way.svg"
    result = cli(model, "--picture", file)
    assert result.code == 1
    assert result.out.endswith(f"\nwritten   {file}\n")
    svg = file.read_text(encoding="utf-8")
    assert texts(svg) == [
        *("Way of the rows by the graph: coupled", "Input", "x", "axis 0 of (n, 4)", "Relu", "a", "axis 0 of (n, 4)"),
        *("Softmax: COUPLES THE ROWS", "y", "Softmax normalises over axis 0, which holds", "the rows", "output y", "coupled"),
        "not drawn: z (independent)",
    ]
    assert svg.count("#c62828") == 2  # the node and the output
    cli(model, "--picture", file)
    assert file.read_text(encoding="utf-8") == svg


def test_picture_for_graphviz(cli, save, tmp_path):
    model, file = save(SOFTMAX), tmp_path / "way.DOT"
    result = cli(model, "--picture", file, "--json")
    assert result.json["verdict"] == "coupled"
    assert file.read_text(encoding="utf-8") == analyse(model).to_dot()


def test_picture_says_why_it_cannot_be_written(fails, save, tmp_path):
    folder = tmp_path / "way.svg"
    folder.mkdir()
    assert fails(save(MLP), "--picture", folder) == f"--picture {folder}: it is a folder"
    closed = tmp_path / "closed.svg"
    closed.symlink_to(tmp_path / "none" / "way.svg")
    assert fails(save(MLP), "--picture", closed) == f"--picture {closed}: cannot be written: No such file or directory"


def found(*outputs):
    return Safety((), outputs)


def output(name, verdict="independent", node=None, reason="because", chain=(), axis=0, per_row=1):
    return OutputSafety(name, verdict, node, reason, chain, axis, per_row, "proven")


WAY = (Step("x", "Input", "x", "axis 0 of (n, 4)"), Step("loop", "Loop", "y", "?"))


def test_picture_of_independent_outputs():
    drawn = texts(found(output("y", chain=WAY[:1], per_row=3), output("z", chain=WAY[:1], axis=None)).to_svg())
    assert drawn == [
        "Way of the rows by the graph: independent",
        *("Input", "x", "axis 0 of (n, 4)", "output y", "independent", "axis 0, 3 entries per row"),
        *("Input", "x", "axis 0 of (n, 4)", "output z", "independent", "depends on no row"),
    ]


def test_picture_of_unknown_outputs():
    svg = found(output("y", "unknown", "loop", "node 'loop' (Loop) ends it", WAY), output("z", "unknown", None, "why")).to_svg()
    drawn = texts(svg)
    assert drawn[4:9] == ["Loop: HERE THE PROOF ENDS", "loop", "Loop ends it", "output y", "unknown"]
    assert drawn[9:] == ["output z", "unknown", "why"]
    assert svg.count("stroke-dasharray") == 3


def test_picture_of_a_node_within_a_body():
    drawn = texts(found(output("y", "coupled", "inner", "node 'inner' (Softmax) mixes", WAY)).to_svg())
    assert drawn[4:] == ["Loop", "loop", "?", "COUPLES THE ROWS", "inner", "Softmax mixes", "output y", "coupled"]


def test_graphviz_has_a_node_within_a_body_on_the_way():
    dot = found(output("y", "coupled", "inner", "node 'inner' (Softmax) mixes", WAY)).to_dot()
    edges = [line.partition(" [")[0].strip() for line in dot.splitlines() if "->" in line]
    assert edges == ['"x" -> "loop"', '"loop" -> "inner"', '"inner" -> "output y"']


def test_picture_draws_the_worst_ways_and_says_what_is_left_out():
    unknown = [output(f"u{i}", "unknown", None, f"why {i}") for i in range(10)]
    shared = [output(f"c{i}", "coupled", "x", "node 'x' (Op) mixes") for i in range(3)]
    drawn = texts(found(*unknown, output("i"), *shared).to_svg())
    assert "outputs c0, c1, c2" in drawn
    assert [text for text in drawn if text.startswith("output u")] == [f"output u{i}" for i in range(7)]
    assert drawn[-1] == "not drawn: u7 (unknown), u8 (unknown), u9 (unknown), i (independent)"


@pytest.mark.parametrize("name", ["a" * 200, "a<b>&\"c'", "\x00\x1b[31m\nred", "\ud800", "層" * 100, ""])
def test_picture_holds_any_name_within_its_boxes(name):
    svg = found(output(name, "coupled", name, "why " * 60, (Step(name, "Op", name, name),))).to_svg()
    root = ElementTree.fromstring(svg.encode("utf-8"))
    assert root.get("style") == "color-scheme: only light"  # a browser that darkens pages itself turns the text white, no more
    widest = max(sum(2 if character > "\u1100" else 1 for character in text or "") for text in texts(svg))
    assert widest <= 44
    low, height = max(float(each.get("y", 0)) for each in root), float(root.get("height"))
    assert low < height
    assert texts(svg).count("output " + name) == (name == "a<b>&\"c'")


# -------------------------------------------------------------------------------------------------------- by a program


def test_runner_tries_rows(affine):
    backend = Distorting(coupled)
    with anybatch.open(affine, backend=backend, safety="off") as runner:
        assert runner.try_rows().verdict == "coupled"
        with pytest.raises(InputError, match="expected seconds > 0"):
            runner.try_rows(seconds=0)
        before = len(backend.launches)
    with pytest.raises(ClosedError, match=r"try_rows\(\) after close\(\)"):
        runner.try_rows()
    assert len(backend.launches) == before


def test_help_ends_in_an_example(cli):
    result = cli("--help")
    assert (result.code, "Example: anybatch check model.onnx" in result.out) == (0, True)
    assert max(map(len, result.out.splitlines())) <= 80
