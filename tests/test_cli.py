"""The command line, mostly in process: what is printed where, and which exit code says what."""

import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import distributions
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

import anybatch
from anybatch import Gears, InputError, ModelSpec, MultipleOf, Planner, TableCosts, TensorSpec
from anybatch._bench import awkward_sizes, measure_latencies
from anybatch._cli import app
from anybatch._cli._files import read_inputs, write_outputs
from anybatch._cli._output import activity
from anybatch._cli.run import _pieces
from anybatch._samples import random_inputs, take_rows
from anybatch._version import __version__
from anybatch.plots import cost_chart, policy_chart

PLAN = ("plan", "--gears", "1,2,4,8", "--costs", "1,1.6,2.9,5.5")
COMMANDS = list(typer.main.get_command(app).commands)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app([str(argument) for argument in arguments], prog_name="anybatch")
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def cli_fails(cli):
    """Call the command line, expect bad input, and return the one line on stderr without its prefix."""

    def call(*arguments, error="InputError", code=2):
        result = cli(*arguments)
        assert (result.code, result.out) == (code, "")
        assert result.err.startswith(f"anybatch: {error}: ")
        assert result.err.count("\n") == 1
        return result.err.removeprefix(f"anybatch: {error}: ").rstrip("\n")

    return call


@pytest.fixture
def save_model(tmp_path):
    def save(graph, name="model.onnx"):
        path = tmp_path / name
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}'), path)
        return path

    return save


@pytest.fixture
def scale(save_model):
    """One input, one output: y = 2 x."""
    return save_model("scale (float[rows, 3] x) => (float[rows, 3] y) <float two = {2}> { y = Mul(x, two) }")


@pytest.fixture
def both(save_model):
    """Two inputs, two outputs, of which one has a name that numpy.savez cannot take."""
    return save_model(
        "both (float[rows, 3] x, float[rows, 3] z) => (float[rows, 3] file, float[rows, 3] diff)"
        "{ file = Add(x, z) diff = Sub(x, z) }"
    )


@pytest.fixture
def free(save_model):
    """A free dimension beside the rows."""
    return save_model("free (float[rows, seq] x) => (float[rows, seq] y) { y = Neg(x) }")


def numbers(rows, columns=3):
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


def saved(path, array):
    np.save(path, array)
    return path


# --- the program ---


def test_version(cli):
    assert cli("--version") == Result(0, f"anybatch {__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_in_an_example(cli, command, flag):
    result = cli(command, flag)
    assert result.code == 0
    assert f"Example: anybatch {command}" in result.out
    assert "--json" in result.out


def test_help_fits_80_columns(cli):
    for command in ([], *([name] for name in COMMANDS)):
        assert max(map(len, cli(*command, "-h").out.splitlines())) <= 80, command


@pytest.mark.parametrize("arguments", [["nonsense"], ["plan"], ["run", "model.onnx"], ["plan", "--rows", "1", "--nonsense"]])
def test_wrong_usage(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: anybatch" in result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (anybatch.InputError("no"), 2),
        (anybatch.ModelError("no"), 2),
        (anybatch.BackendNotFoundError("no"), 2),
        (anybatch.BackendUnavailableError("no"), 1),
        (anybatch.MissingPackageError("no"), 1),
        (anybatch.DeviceError("no", backend="b", operation="o"), 1),
        (anybatch.ContractError("no"), 1),
        (anybatch.ClosedError("no"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_code_says_whose_move_it_is(cli_fails, monkeypatch, scale, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("anybatch._registry.open_model", fail)
    assert cli_fails("inspect", scale, error=type(error).__name__, code=code) == str(error)


@pytest.mark.parametrize("arguments", [["--debug", "inspect", "nope.onnx"], ["inspect", "nope.onnx", "--debug"]])
def test_debug_shows_the_traceback(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Traceback (most recent call last):")
    assert result.err.splitlines()[-1] == "anybatch: ModelError: expected a model file, but 'nope.onnx' does not exist"


def test_without_debug_there_is_no_traceback(cli_fails):
    assert cli_fails("inspect", "nope.onnx", error="ModelError") == "expected a model file, but 'nope.onnx' does not exist"


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )


def test_python_m_is_the_same_program():
    result = python("-m", "anybatch", *PLAN, "--rows", "13", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["cost"] == 9.4


def test_python_m_knows_its_name():
    assert "Usage: anybatch " in python("-m", "anybatch", "plan").stderr


def test_a_closed_pipe_leaves_no_traceback():
    result = subprocess.run(
        f"{sys.executable} -m anybatch plan --gears 1 --rows 20000 --json | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("{\n", "")


def test_completion_script():
    script = python("-m", "anybatch", _ANYBATCH_COMPLETE="source_bash").stdout
    assert "complete " in script
    assert "_ANYBATCH_COMPLETE=complete_bash" in script


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("anybatch b", {"backends", "bench"}),
        ("anybatch plan --policy ", set(anybatch.POLICIES)),
        ("anybatch inspect --backend onnx", {"onnxruntime"}),
        ("anybatch run --padding ", {"zero", "repeat"}),
    ],
)
def test_completion(line, words):
    count = str(len(line.split(" ")) - 1)
    result = python("-m", "anybatch", _ANYBATCH_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=count)
    assert words <= set(result.stdout.split())


def test_the_library_does_without_the_command_line():
    loaded = python("-c", "import anybatch, sys; print(*sys.modules)").stdout.split()
    assert "anybatch" in loaded
    assert not {"typer", "rich", "anybatch._cli"} & set(loaded)


def test_help_imports_nothing_slow():
    code = """if True:
        import sys, typer  # old versions of typer import rich by themselves
        theirs = set(sys.modules)
        from anybatch._cli import app
        app(["run", "-h"], standalone_mode=False)
        print("loaded:", *set(sys.modules) - theirs)
    """
    loaded = python("-c", code).stdout.partition("loaded: ")[2].split()
    assert "anybatch._cli" in loaded
    assert not {"rich", "rich.console", "onnxruntime"} & set(loaded)


def test_progress_goes_to_a_terminal_only(cli, monkeypatch, scale, tmp_path):
    rows = saved(tmp_path / "x.npy", numbers(5))
    assert cli("run", scale, "--input", rows).err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = cli("run", scale, "--input", rows, "--batch-sizes", "1", "--json")
    assert "5 rows" in result.err
    assert "100%" in result.err
    assert result.json["rows"] == 5


# --- shared arguments ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,x"], "--batch-sizes: expected whole numbers such as 1,4,8, got '1,x'"),
        (["--batch-sizes", ""], "--batch-sizes: expected whole numbers such as 1,4,8, got ''"),
        (["--batch-sizes", "4,0"], "expected batch sizes to be ints of at least 1, got 0"),
        (["--device", "-1"], "expected device to be an index >= 0, got -1"),
        (["--option", "providers"], "--option: expected NAME=VALUE, got 'providers'"),
        (["--option", "=1"], "--option: expected NAME=VALUE, got '=1'"),
        (["--option", "a=1", "--option", "a=2"], "--option: expected each name once, got 'a' twice"),
        (["--option", "device=1"], "--option device: this is no option of a backend; see --help for what there is instead"),
    ],
)
def test_shared_arguments_that_do_not_fit(cli_fails, scale, arguments, message):
    assert cli_fails("inspect", scale, *arguments) == message


def test_options_are_json_where_they_read_as_json(cli, monkeypatch, scale):
    given_options = {}
    open_model = anybatch.open

    def spy(model, **arguments):
        given_options.update(arguments)
        return open_model(model)

    monkeypatch.setattr("anybatch._registry.open_model", spy)
    options = ["--option", "a=1", "--option", "b=[true, null]", "--option", "c=plain text", "--option", "d=x=y"]
    assert cli("inspect", scale, "--batch-sizes", "1,4", *options).code == 0
    expected = {"a": 1, "b": [True, None], "c": "plain text", "d": "x=y"}
    assert (
        given_options
        == {
            "backend": None,
            "device": 0,
            "batch_sizes": [1, 4],
            "costs": anybatch.AffineCosts(),
            "safety": "auto",
            "independent": (),
        }
        | expected
    )


def test_unknown_backend(cli_fails, scale):
    assert "no backend 'nope' is installed" in cli_fails("inspect", scale, "--backend", "nope", error="BackendNotFoundError")


# --- plan ---


def test_plan_of_the_readme(cli):
    result = cli(*PLAN, "--rows", "13", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == {
        "rows": 13,
        "launches": [{"gear": 8, "rows": 8}, {"gear": 4, "rows": 4}, {"gear": 1, "rows": 1}],
        "padded_rows": 0,
        "cost": 9.4,
        "policy": "least_cost",
        "padding_cost": 0.0,
        "policies": {
            "least_cost": 9.4,
            "round_up": 11.0,
            "largest_first": 9.4,
            "one_gear": 11.0,
            "nearest": 9.4,
            "cost_per_request": 9.4,
        },
        "batching": "gears 1, 2, 4, 8",
        "cost_source": "given by the caller",
        "cost_unit": "",
        "error": 0.0,
        "safety": None,
        "unsure": None,
        "runs": 0,
        "actual": None,
    }


def test_plan_for_people(cli):
    result = cli(*PLAN, "--rows", "13")
    assert (result.code, result.err) == (0, "")
    assert result.out == textwrap.dedent("""\
        13 rows on gears 1, 2, 4, 8: 8 + 4 + 1
        padding   0 of 13 rows, 0 of the cost
        cost      9.4; costs: given by the caller

        policy            cost  more
        least_cost         9.4        ━━━━━━━━━━━━━━━━━
        round_up            11  +17%  ━━━━━━━━━━━━━━━━━━━━
        largest_first      9.4        ━━━━━━━━━━━━━━━━━
        one_gear            11  +17%  ━━━━━━━━━━━━━━━━━━━━
        nearest            9.4        ━━━━━━━━━━━━━━━━━
        cost_per_request   9.4        ━━━━━━━━━━━━━━━━━
        """)


def test_plan_shows_what_padding_costs(cli):
    result = cli(*PLAN, "--rows", "15").out.splitlines()
    assert result[:2] == ["15 rows on gears 1, 2, 4, 8: 8 + 8 (7 rows)", "padding   1 of 16 rows, 0.6875 of the cost"]


def test_several_requests_are_a_list(cli):
    assert [plan["rows"] for plan in cli(*PLAN, "--rows", "13", "--rows", "5,0", "--json").json] == [13, 5, 0]
    assert cli(*PLAN, "--rows", "13,5").out.count("policy") == 2


def test_a_request_of_no_rows_has_a_plan(cli):
    assert "0 rows on gears 1, 2, 4, 8: nothing to launch" in cli(*PLAN, "--rows", "0").out


def test_costs_belong_to_gears_in_the_order_given(cli):
    plan = cli("plan", "--gears", "8,1", "--costs", "2,100", "--rows", "1", "--json").json
    assert plan["launches"] == [{"gear": 8, "rows": 1}]


def test_without_costs_the_prior_is_named(cli):
    assert cli("plan", "--gears", "1,4", "--rows", "3", "--json").json["cost_source"] == "affine prior, nothing measured"
    assert "affine prior, nothing measured" in cli("plan", "--gears", "1,4", "--rows", "3").out


def test_overhead_and_per_row(cli):
    plan = cli("plan", "--gears", "1,4", "--overhead", "10", "--per-row", "0.5", "--rows", "3", "--json").json
    assert (plan["cost"], plan["cost_source"]) == (12.0, "overhead and per row as given")


def test_plan_by_another_policy(cli):
    plan = cli(*PLAN, "--rows", "13", "--policy", "one_gear", "--json").json
    assert (plan["policy"], plan["cost"], plan["padded_rows"]) == ("one_gear", 11.0, 3)


def test_plan_of_a_model(cli, scale):
    plan = cli("plan", scale, "--batch-sizes", "2,4", "--rows", "7", "--json").json
    assert plan["launches"] == [{"gear": 4, "rows": 4}, {"gear": 4, "rows": 3}]
    plan = cli("plan", scale, "--gears", "2,4", "--costs", "1,10", "--rows", "7", "--json").json
    assert (plan["launches"][0], plan["cost_source"]) == ({"gear": 2, "rows": 2}, "given by the caller")
    assert "any batch size" in cli("plan", scale, "--rows", "7").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gears", "1,2", "--costs", "1", "--rows", "3"], "expected one cost for each gear, got 1 costs for 2 gears"),
        (["--gears", "1,2", "--rows", "-3"], "expected rows >= 0, got -3"),
        (["--gears", "1,2", "--rows", "3.5"], "--rows: expected whole numbers such as 1,4,8, got '3.5'"),
        (["--rows", "3"], "expected a MODEL, --gears such as --gears 1,2,4,8, or --calibration"),
        (["--costs", "1", "--rows", "3"], "--costs has one cost for each of --gears, which is missing"),
        (["--gears", "1,1", "--costs", "1,2", "--rows", "3"], "expected each batch size once, got 1 twice"),
        (["--gears", "0", "--rows", "3"], "expected batch sizes to be ints of at least 1, got 0"),
        (["--gears", "1", "--costs", "x", "--rows", "3"], "--costs: expected numbers such as 1,1.6,2.9, got 'x'"),
        (["--gears", "1", "--costs", "nan", "--rows", "3"], "expected a positive, finite cost for batch size 1, got nan"),
        (["--gears", "1", "--overhead", "1", "--rows", "3"], "--overhead and --per-row belong together: give both"),
        (
            ["--gears", "1", "--overhead", "1", "--per-row", "1", "--costs", "1", "--rows", "3"],
            "expected --costs, or --overhead and --per-row, got all of them",
        ),
        (
            ["--gears", "1", "--backend", "onnxruntime", "--rows", "3"],
            "--backend, --device, --option and --independent are for opening a MODEL, but there is none",
        ),
        (
            ["--gears", "1", "--independent", "y", "--rows", "3"],
            "--backend, --device, --option and --independent are for opening a MODEL, but there is none",
        ),
    ],
)
def test_plans_that_do_not_fit(cli_fails, arguments, message):
    assert cli_fails("plan", *arguments) == message


@pytest.fixture
def svg(tmp_path):
    """Return the text of an SVG of that name; it must be one."""

    def read(name):
        return " ".join("".join(ElementTree.parse(tmp_path / name).getroot().itertext()).split())

    return read


def test_plan_charts_policies_and_costs_into_files(cli, svg, tmp_path):
    names = [tmp_path / name for name in ("plans.svg", "plans.png", "costs.svg")]
    result = cli(*PLAN, "--rows", "13", "--plot", names[0], "--plot", names[1], "--plot-costs", names[2])
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("13 rows on gears 1, 2, 4, 8: 8 + 4 + 1\n")
    assert result.out.endswith("".join(f"written   {name}\n" for name in names))
    assert "What a request costs on gears 1, 2, 4, 8" in svg("plans.svg")
    assert "What a launch costs" in svg("costs.svg")
    assert names[1].read_bytes().startswith(b"\x89PNG")


def test_plan_charts_here(cli):
    result = cli(*PLAN, "--plot", "-", "--up-to", "30", "--plot-costs", "-")
    planner = Planner(Gears((1, 2, 4, 8)), TableCosts({1: 1, 2: 1.6, 4: 2.9, 8: 5.5}))
    assert (result.code, result.err) == (0, "")
    plans, costs = policy_chart(planner, 30).text(), cost_chart(planner.costs).text()
    assert result.out == f"{plans}\n\n{costs}\n"


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("60", 60), ("20", 40), ("300", 120)])
def test_charts_fit_what_they_are_printed_on(cli, monkeypatch, columns, width):
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    lines = cli("plan", "--gears", "1,8", "--plot", "-").out.splitlines()
    assert max(map(len, lines)) == width


def test_charts_have_colours_where_the_terminal_has(cli, monkeypatch):
    plain = cli("plan", "--gears", "1,8", "--plot", "-").out
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = cli("plan", "--gears", "1,8", "--plot", "-").out
    assert "\x1b[" not in plain and re.sub(r"\x1b\[\d+m", "", coloured) == plain != coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli("plan", "--gears", "1,8", "--plot", "-").out == plain


def test_charts_are_ascii_on_ascii_terminals():
    done = python("-m", "anybatch", "plan", "--gears", "1,8", "--plot", "-", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "rows of the request" in done.stdout


@pytest.mark.parametrize(("sizes", "title"), [(["--gears", "2,4"], "gears 2, 4"), ([], "any batch size")], ids=["gears", "any"])
def test_plan_charts_a_model(cli, scale, svg, tmp_path, sizes, title):
    arguments = ["--plot", tmp_path / "plans.svg", "--plot", "-", "--plot-costs", tmp_path / "costs.svg"]
    result = cli("plan", scale, *sizes, *arguments)
    assert result.code == 0
    assert result.out.startswith(f"What a request costs on {title}\n")
    assert f"What a request costs on {title}" in svg("plans.svg")
    assert "affine prior, nothing measured" in svg("costs.svg")


def test_plan_charts_beside_json(cli, svg, tmp_path):
    arguments = [*PLAN, "--plot", tmp_path / "plans.svg", "--json"]
    assert cli(*arguments, "--rows", "13").json["rows"] == 13
    assert "least_cost" in svg("plans.svg")
    assert cli(*arguments).json == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "{folder}/plans.pdf"], "{folder}/plans.pdf: expected a file that ends in .png or .svg"),
        (["--plot-costs", "costs"], "costs: expected a file that ends in .png or .svg"),
        (["--plot", "{folder}/none/plans.svg"], "{folder}/none/plans.svg: there is no folder '{folder}/none'"),
        (["--plot", "-", "--json"], "with --json there is nothing but JSON on stdout: give a chart a file, not -"),
        (["--rows", "1", "--up-to", "9"], "--up-to is for --plot, which is missing"),
        (["--plot-costs", "-", "--up-to", "9"], "--up-to is for --plot, which is missing"),
        (
            ["--plot", "{folder}/a.svg", "--plot-costs", "{folder}/a.svg"],
            "expected each chart's file once, got {folder}/a.svg, {folder}/a.svg",
        ),
    ],
)
def test_charts_that_do_not_fit_are_refused_before_a_model_is_opened(cli_fails, tmp_path, arguments, message):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert cli_fails("plan", "no model", *arguments) == message.format(folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_chart_of_no_rows_is_refused(cli_fails):
    message = "expected the largest number of rows as an int of 1 to 10,000, got 0"
    assert cli_fails(*PLAN, "--plot", "-", "--up-to", "0") == message


def test_charts_in_files_need_a_package(cli_fails, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = cli_fails(*PLAN, "--plot", tmp_path / "plans.svg", error="MissingPackageError", code=1)
    assert message.endswith(": pip install 'anybatch[plot]'")


def test_unknown_policy(cli_fails):
    message = cli_fails("plan", "--gears", "1", "--rows", "3", "--policy", "best")
    assert message == f"expected policy to be one of {list(anybatch.POLICIES)}, got 'best'"


# --- inspect ---


def test_inspect(cli, both):
    result = cli("inspect", both, "--batch-sizes", "1,4")
    assert (result.code, result.err) == (0, "")
    assert "batching: gears 1, 4" in result.out
    assert "[rows, 3]" in result.out
    assert "onnxruntime" in result.out.splitlines()[0]


def test_inspect_as_json(cli, free):
    result = cli("inspect", free, "--backend", "onnxruntime", "--json").json
    assert result["model"] == str(free)
    assert (result["backend"], result["simulated"]) == ("onnxruntime", False)
    assert result["runtime"].startswith("onnxruntime ")
    assert result["batching"] == {"kind": "AnyBatch"}
    tensor = {"dtype": "float32", "shape": [None, "seq"], "batch_axis": 0, "rows_per_row": 1}
    assert result["inputs"] == [{"name": "x"} | tensor]
    assert result["outputs"] == [{"name": "y"} | tensor | {"combine": None}]


def test_inspect_shows_the_gears(cli, scale):
    batching = cli("inspect", scale, "--batch-sizes", "8,1", "--json").json["batching"]
    assert (batching["kind"], batching["sizes"]) == ("Gears", [1, 8])


# --- outputs that the caller declares independent ---


@pytest.fixture
def mixing(save_model):
    """A model whose rows are coupled: nothing but one exact launch is let through, unless the caller knows better."""
    return save_model("mixing (float[rows, 3] x) => (float[rows, 3] y) { y = Softmax<axis = 0>(x) }")


def test_inspect_shows_what_is_declared(cli, mixing):
    assert "rows of y: coupled; " in cli("inspect", mixing).out
    assert "rows of y: independent; the caller declares it\n" in cli("inspect", mixing, "--independent", "y").out
    for mode in ("auto", "off"):
        (rows,) = cli("inspect", mixing, "--independent", "y", "--safety", mode, "--json").json["rows"]
        assert (rows["name"], rows["verdict"], rows["basis"]) == ("y", "independent", "caller")


def test_plan_shows_what_is_declared(cli, cli_fails, mixing):
    arguments = ("plan", mixing, "--gears", "2,4", "--rows", "3")
    cli_fails(*arguments, error="CoupledRowsError", code=2)
    assert "rows      y: independent, by the caller's word\n" in cli(*arguments, "--independent", "y").out
    assert cli(*arguments, "--independent", "y", "--json").json["safety"] == "y: independent, by the caller's word"
    assert cli(*PLAN, "--rows", "3", "--json").json["safety"] is None


def test_run_and_bench_report_what_is_declared(cli, cli_fails, mixing, tmp_path):
    source = saved(tmp_path / "x.npy", numbers(3))
    for arguments in (("run", mixing, "--input", source), ("bench", mixing, "--rows", "3", "--iterations", "1")):
        arguments += ("--batch-sizes", "2,4")
        cli_fails(*arguments, error="CoupledRowsError", code=2)
        declared = cli(*arguments, "--independent", "y")
        assert (declared.code, declared.err) == (0, "")
        assert "declared  independent rows of y, by the caller's word\n" in declared.out
        assert cli(*arguments, "--independent", "y", "--json").json["independent"] == ["y"]


def test_calibrate_takes_the_callers_word(cli, save_model):
    sizes = "s = Shape(x) f = Cast<to = 1>(s) i = Cast<to = 7>(f)"  # not followed through floats, so it is tried
    model = save_model(f"open (float[rows, 3] x) => (float[rows, 3] y) {{ {sizes} y = Reshape(x, i) }}")
    arguments = ("calibrate", model, "--batch-sizes", "2", "--seconds", "0.01")
    assert "not proven that rows do not influence one another in output 'y'" in cli(*arguments).err
    declared = cli(*arguments, "--independent", "y")
    assert (declared.code, declared.err) == (0, "")


@pytest.mark.parametrize("command", ["inspect", "plan", "run", "bench", "calibrate"])
def test_only_outputs_can_be_declared(cli_fails, scale, tmp_path, command):
    more = {"run": ("--input", saved(tmp_path / "x.npy", numbers(3))), "plan": ("--rows", "3")}
    message = cli_fails(command, scale, *more.get(command, ()), "--independent", "x")
    assert message == "expected independent to be a collection of outputs, of ['y'], got ['x']"


# --- run ---


@pytest.mark.parametrize("sizes", [(), ("--batch-sizes", "1,4"), ("--batch-sizes", "4", "--padding", "repeat")])
def test_npy_round_trip(cli, scale, tmp_path, sizes):
    rows = numbers(11)
    source, target = saved(tmp_path / "x.npy", rows), tmp_path / "y.npy"
    result = cli("run", scale, "--input", source, "--output", target, *sizes)
    assert (result.code, result.err) == (0, "")
    np.testing.assert_array_equal(np.load(target, allow_pickle=False), 2 * rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "x.npy", "y.npy"]


def test_npz_round_trip(cli, both, tmp_path):
    x, z = numbers(9), numbers(9)[::-1]
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(source, z=z, x=x)
    assert cli("run", both, "--input", source, "--output", target, "--batch-sizes", "2,4").code == 0
    with np.load(target, allow_pickle=False) as outputs:
        assert outputs.files == ["file", "diff"]
        np.testing.assert_array_equal(outputs["file"], x + z)
        np.testing.assert_array_equal(outputs["diff"], x - z)


def test_equal_results_make_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_outputs(tmp_path / name, {"y": numbers(3)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_npy_stays_on_disk(tmp_path):
    spec = ModelSpec((TensorSpec("x", np.dtype(np.float32), (None, 3)),), (TensorSpec("y", np.dtype(np.float32), (None, 3)),))
    array = read_inputs(saved(tmp_path / "x.npy", numbers(5)), spec)["x"]
    assert type(array) is np.ndarray
    assert isinstance(array.base, np.memmap)
    assert not array.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_long_short_and_empty_inputs(cli, scale, tmp_path, rows, order):
    array = np.asarray(numbers(rows), order=order)
    source, target = saved(tmp_path / "x.npy", array), tmp_path / "y.npz"
    result = cli("run", scale, "--input", source, "--output", target, "--batch-sizes", "2,3", "--json")
    with np.load(target, allow_pickle=False) as outputs:
        np.testing.assert_array_equal(outputs["y"], 2 * array)
    assert result.json["rows"] == rows


def test_run_reports_what_the_whole_request_needs(cli, scale, tmp_path):
    source = saved(tmp_path / "x.npy", numbers(1003))
    result = cli("run", scale, "--input", source, "--batch-sizes", "1,4,8", "--json").json
    plan = Planner(Gears((1, 4, 8))).plan(1003)
    assert {launch["gear"]: launch["count"] for launch in result["launches"]} == Counter(step.gear for step in plan.launches)
    assert (result["rows"], result["padded_rows"]) == (1003, plan.padded_rows)
    assert result["seconds"] > 0


def test_run_summarises_without_an_output(cli, scale, tmp_path):
    rows = np.array([[1, 2, 3], [4, np.nan, np.inf]], np.float32)
    source = saved(tmp_path / "x.npy", rows)
    result = cli("run", scale, "--input", source, "--json").json
    assert result["output"] is None
    assert result["outputs"] == [
        {"name": "y", "dtype": "float32", "shape": [2, 3], "min": 2.0, "mean": 5.0, "max": 8.0, "not_finite": 2}
    ]
    text = cli("run", scale, "--input", source).out
    assert text.startswith("2 rows on onnxruntime in ")
    assert "nothing; --output FILE writes the results" in text


def test_values_that_have_no_range_have_none(cli, save_model, tmp_path):
    model = save_model("same (float[rows, 3] x) => (bool[rows, 3] b, float[rows, 3] y) { b = IsNaN(x) y = Identity(x) }")
    rows = np.full((2, 3), np.nan, np.float32)
    outputs = cli("run", model, "--input", saved(tmp_path / "x.npy", rows), "--json").json["outputs"]
    assert [output["mean"] for output in outputs] == [1.0, None]
    assert " - " in cli("run", model, "--input", tmp_path / "x.npy").out


def test_extra_arrays(cli, cli_fails, scale, tmp_path):
    source = tmp_path / "in.npz"
    np.savez(source, x=numbers(4), labels=np.arange(4), ids=np.arange(4))
    message = cli_fails("run", scale, "--input", source)
    assert (
        message == f"{source}: ['labels', 'ids'] are no inputs of the model, which takes ['x']; --ignore-extra leaves them out"
    )
    assert cli("run", scale, "--input", source, "--ignore-extra", "--json").json["rows"] == 4


def test_missing_array(cli_fails, both, tmp_path):
    np.savez(tmp_path / "in.npz", x=numbers(4))
    assert "missing ['z']" in cli_fails("run", both, "--input", tmp_path / "in.npz")


def test_arrays_that_do_not_fit_are_refused_before_anything_runs(cli_fails, scale, tmp_path):
    source = saved(tmp_path / "x.npy", numbers(4).astype(np.float64))
    assert "expected float32 [rows, 3], got float64 [4, 3]" in cli_fails("run", scale, "--input", source)


def test_npy_for_several_inputs(cli_fails, both, tmp_path):
    source = saved(tmp_path / "x.npy", numbers(4))
    message = cli_fails("run", both, "--input", source)
    assert message == f"{source}: one array, but the model takes 2 inputs, ['x', 'z']: save an .npz with these names"


def test_npy_for_several_outputs(cli_fails, both, tmp_path):
    np.savez(tmp_path / "in.npz", x=numbers(4), z=numbers(4))
    target = tmp_path / "y.npy"
    message = cli_fails("run", both, "--input", tmp_path / "in.npz", "--output", target)
    assert message == f"{target}: one array, but the model has 2 outputs, ['file', 'diff']: write an .npz"


class Trap:
    """Unpickling this would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickles_are_refused(cli_fails, scale, tmp_path, name):
    path = tmp_path / name
    array = np.array([[Trap()] * 3], dtype=object)
    np.savez(path, x=array) if name.endswith("z") else np.save(path, array)
    message = cli_fails("run", scale, "--input", path)
    assert message.endswith("; Python objects are never loaded, since that can run code: save arrays of numbers")
    path.write_bytes(pickle.dumps(Trap()))
    assert cli_fails("run", scale, "--input", path).startswith(f"{path}: cannot be read: ")


def test_unreadable_files(cli_fails, scale, tmp_path):
    path = tmp_path / "x.npy"
    message = f"{path}: cannot be read: "
    path.write_bytes(b"")
    assert cli_fails("run", scale, "--input", path).startswith(message)
    buffer = io.BytesIO()
    np.save(buffer, numbers(100))
    path.write_bytes(buffer.getvalue()[:300])
    assert cli_fails("run", scale, "--input", path).startswith(message)
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 and nothing else")
    assert cli_fails("run", scale, "--input", path).startswith(f"{path}: cannot be read: ")
    np.savez(path, x=numbers(1000))
    damaged = bytearray(path.read_bytes())
    damaged[400:500] = bytes(100)
    path.write_bytes(damaged)
    assert cli_fails("run", scale, "--input", path).startswith(f"{path}: 'x': cannot be read: ")


def test_files_are_checked_before_the_model_is_opened(cli_fails, tmp_path):
    source, existing = saved(tmp_path / "x.npy", numbers(4)), saved(tmp_path / "old.npy", numbers(4))
    expected = {
        ("--input", "x.csv"): "x.csv: expected a file that ends in .npz or .npy",
        ("--input", "none.npy"): "none.npy: there is no such file",
        ("--input", source, "--output", "y.csv"): "y.csv: expected a file that ends in .npz or .npy",
        ("--input", source, "--output", existing): f"{existing}: it exists; --force overwrites files",
        ("--input", source, "--output", "/none/y.npy"): "/none/y.npy: there is no folder '/none'",
    }
    for arguments, message in expected.items():
        assert cli_fails("run", "nope.onnx", *arguments) == message
    np.testing.assert_array_equal(np.load(existing), numbers(4))


def test_force_overwrites_files_but_no_folders(cli, cli_fails, scale, tmp_path):
    source, target = saved(tmp_path / "x.npy", numbers(4)), saved(tmp_path / "y.npy", numbers(1))
    assert cli("run", scale, "--input", source, "--output", target, "--force").code == 0
    np.testing.assert_array_equal(np.load(target), 2 * numbers(4))
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    assert cli_fails("run", scale, "--input", source, "--output", folder, "--force").startswith(f"{folder}: it exists")


def test_a_failed_write_leaves_the_old_file(cli_fails, monkeypatch, scale, tmp_path):
    source, target = saved(tmp_path / "x.npy", numbers(4)), saved(tmp_path / "y.npy", numbers(1))

    def full(file, *_, **__):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    message = cli_fails("run", scale, "--input", source, "--output", target, "--force")
    assert message == f"{target}: cannot be written: No space left on device"
    np.testing.assert_array_equal(np.load(target), numbers(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "x.npy", "y.npy"]


def test_bfloat16_survives_the_file(tmp_path):
    tensor = TensorSpec("x", np.dtype(ml_dtypes.bfloat16), (None, 3))
    rows = numbers(4).astype(ml_dtypes.bfloat16)
    for name in ("x.npy", "x.npz"):
        write_outputs(tmp_path / name, {"x": rows})
        read = read_inputs(tmp_path / name, ModelSpec((tensor,), (tensor,)))["x"]
        assert read.dtype == rows.dtype
        np.testing.assert_array_equal(read, rows)


@given(
    st.dictionaries(st.integers(1, 40), st.integers(1, 200), min_size=1, max_size=5),
    st.integers(1, 3000),
)
def test_pieces_cover_a_request_at_the_cost_of_the_whole(costs, rows):
    planner = Planner(Gears(tuple(costs)), TableCosts(costs))
    plan = planner.plan(rows)
    pieces = list(_pieces(plan))
    assert [0, *(stop for _, stop in pieces)] == [*(start for start, _ in pieces), rows]
    assert len(pieces) <= 101
    assert sum(planner.plan(stop - start).cost for start, stop in pieces) == pytest.approx(plan.cost)


def test_outputs_without_rows_are_run_whole(cli, save_model, tmp_path):
    model = save_model("total (float[rows, 3] x) => (float s) { s = ReduceMax<keepdims = 0>(x) }")
    rows = numbers(7)
    result = cli("run", model, "--input", saved(tmp_path / "x.npy", rows), "--output", tmp_path / "s.npy")
    assert result.code == 0, result.err
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), rows.max())


# --- bench ---


def test_bench_counts_real_rows(cli, scale):
    result = cli("bench", scale, "--batch-sizes", "4", "--rows", "1,7", "--iterations", "5", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (document["backend"], document["simulated"], document["batching"]["sizes"]) == ("onnxruntime", False, [4])
    assert [(size["rows"], size["padded_rows"], size["iterations"]) for size in document["sizes"]] == [(1, 3, 5), (7, 1, 5)]
    assert document["sizes"][1]["launches"] == [{"gear": 4, "rows": 4}, {"gear": 4, "rows": 3}]
    for size in document["sizes"]:
        assert size["rows_per_s"] == pytest.approx(size["rows"] * 5 / size["seconds"])
        assert size["min_s"] <= size["p50_s"] <= size["p90_s"] <= size["p99_s"]
        assert size["mean_s"] == pytest.approx(size["seconds"] / 5)


def test_bench_for_people(cli, scale):
    result = cli("bench", scale, "--batch-sizes", "1,4", "--iterations", "2")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{scale} on onnxruntime (onnxruntime ")
    assert lines[1] == "times in us, 2 calls of each size" or lines[1].startswith("times in ms")
    assert [line.split()[0] for line in lines[3:]] == ["rows", "1", "2", "3", "4", "5", "9"]
    assert "4 (3 rows)" in lines[6]
    assert any("━" * 12 in line for line in lines)


def test_bench_for_some_seconds(cli, scale):
    sizes = cli("bench", scale, "--rows", "1,2", "--seconds", "0.02", "--json").json["sizes"]
    assert sizes[0]["iterations"] == sizes[1]["iterations"] > 1, "0.04 s are many calls of a model that takes microseconds"


def test_bench_with_rows_of_a_file(cli, both, tmp_path):
    np.savez(tmp_path / "in.npz", x=numbers(3), z=numbers(3), labels=np.arange(3))
    result = cli("bench", both, "--input", tmp_path / "in.npz", "--rows", "2,8", "--iterations", "1", "--json")
    assert [size["rows"] for size in result.json["sizes"]] == [2, 8]


def test_bench_with_a_free_dimension(cli, cli_fails, free):
    arguments = ("bench", free, "--rows", "2", "--iterations", "1")
    assert cli_fails(*arguments) == "the model leaves dimensions free: give each a size, --shape seq=SIZE"
    assert cli(*arguments, "--shape", "seq=5", "--json").code == 0
    message = cli_fails(*arguments, "--shape", "seq=5", "--shape", "sec=5")
    assert message == "expected sizes >= 0 for the free dimensions ['seq'], got {'seq': 5, 'sec': 5}"
    assert cli_fails(*arguments, "--shape", "seq=x") == "--shape: expected a whole number, got 'x'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "1", "--iterations", "1"], "expected --seconds or --iterations, got both"),
        (["--seconds", "0"], "expected seconds > 0, iterations >= 1, warmup >= 0, got 0.0, None, 3"),
        (["--iterations", "0"], "expected seconds > 0, iterations >= 1, warmup >= 0, got 1.0, 0, 3"),
        (["--warmup", "-1"], "expected seconds > 0, iterations >= 1, warmup >= 0, got 1.0, None, -1"),
        (["--rows", "0,1"], "expected requests of 1 row or more to measure, got sizes [0, 1]"),
        (["--rows", "-1"], "expected rows >= 0, got -1"),
        (["--input", "none.npy"], "none.npy: there is no such file"),
    ],
)
def test_benches_that_do_not_fit(cli_fails, scale, arguments, message):
    assert cli_fails("bench", scale, *arguments) == message


def test_bench_needs_rows_and_no_shapes_with_a_file(cli_fails, scale, tmp_path):
    source = saved(tmp_path / "x.npy", numbers(0))
    assert cli_fails("bench", scale, "--input", source) == "'x': expected at least one row to measure with, got [0, 3]"
    assert cli_fails("bench", scale, "--input", source, "--shape", "a=1").startswith("--shape is for random inputs")


class Recorder:
    """A runner, as far as measuring goes, on which a call takes a second per row."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def plan(self, rows):
        return Planner(Gears((1,))).plan(rows)

    def run(self, inputs):
        self.calls.append(inputs["rows"])
        self.now += inputs["rows"]


def measure(recorder, sizes, **arguments):
    clocks = {"clock": recorder.clock, "wall": recorder.clock}
    return measure_latencies(recorder, {size: {"rows": size} for size in sizes}, **clocks | arguments)


def test_sizes_take_turns():
    recorder = Recorder()
    latencies = measure(recorder, [1, 2, 3], iterations=20, warmup=2)
    rounds = [recorder.calls[start : start + 3] for start in range(0, len(recorder.calls), 3)]
    assert len(rounds) == 22
    assert all(sorted(round_) == [1, 2, 3] for round_ in rounds)
    assert len({tuple(round_) for round_ in rounds}) == 6
    assert [(latency.plan.rows, latency.seconds) for latency in latencies] == [(n, (n,) * 20) for n in (1, 2, 3)]
    assert [latency.rows_per_s for latency in latencies] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 1), (2, 1), (2.1, 2), (10, 5)])
def test_measuring_ends_with_the_round_that_fills_the_time(seconds, rounds):
    shares = []
    latencies = measure(Recorder(), [1, 3], seconds=seconds, warmup=0, progress=shares.append)
    assert [len(latency.seconds) for latency in latencies] == [rounds, rounds]
    assert len(shares) == rounds
    assert shares[-1] == 1.0


def test_percentiles_are_times_that_were_measured():
    times = list(range(1, 101))
    random.Random(3).shuffle(times)
    recorder = Recorder()
    recorder.run = lambda _inputs: setattr(recorder, "now", recorder.now + times.pop())
    (latency,) = measure(recorder, [1], iterations=100, warmup=0)
    assert [latency.percentile(percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert latency.mean == 50.5


def test_how_long_to_measure_is_told_by_the_wall_clock():
    ticks = iter(range(100))
    (latency,) = measure(Recorder(), [1], seconds=5, warmup=0, wall=lambda: next(ticks))
    assert latency.seconds == (1,) * 5


def test_calls_that_take_no_time_are_refused():
    with pytest.raises(InputError, match="calls take no time on this clock, .*: give a simulator a cost model"):
        measure(Recorder(), [1], iterations=2, clock=lambda: 3.0)


def test_measuring_nothing_is_refused():
    with pytest.raises(InputError, match="expected requests of 1 row or more"):
        measure(Recorder(), [])


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        (Gears((1, 4, 8)), [1, 2, 3, 4, 5, 7, 8, 9, 17]),
        (Gears((1,)), [1, 2, 3]),
        (Gears((1, 2, 4, 8, 16, 32)), [1, 2, 7, 8, 9, 31, 32, 33, 65]),
        (MultipleOf(16), [1, 15, 16, 17, 33]),
        (anybatch.AnyBatch(), [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_sizes_that_hurt(batching, sizes):
    assert awkward_sizes(batching) == sizes


def spec_of(*inputs):
    return ModelSpec(inputs, (TensorSpec("y", np.dtype(np.float32), (None,)),))


def test_random_inputs_fit_their_spec():
    spec = spec_of(
        TensorSpec("f", np.dtype(np.float32), (None, 50)),
        TensorSpec("h", np.dtype(ml_dtypes.bfloat16), ("seq", None, None), batch_axis=1, rows_per_row=2),
        TensorSpec("i", np.dtype(np.int64), (None, "seq")),
        TensorSpec("b", np.dtype(np.bool_), (None, 50)),
        TensorSpec("c", np.dtype(np.complex64), (None, 50)),
        TensorSpec("table", np.dtype(np.float64), (7,), batch_axis=None),
    )
    inputs = random_inputs(spec, 3, {"seq": 4, "h.2": 5})
    shapes = {name: array.shape for name, array in inputs.items()}
    assert shapes == {"f": (3, 50), "h": (4, 6, 5), "i": (3, 4), "b": (3, 50), "c": (3, 50), "table": (7,)}
    assert all(inputs[tensor.name].dtype == tensor.dtype for tensor in spec.inputs)
    assert set(np.unique(inputs["i"])) == set(np.unique(inputs["b"])) == {0, 1}
    again = random_inputs(spec, 3, {"seq": 4, "h.2": 5})
    assert all(again[name].tobytes() == array.tobytes() for name, array in inputs.items())
    with pytest.raises(InputError, match=r"--shape h\.2=SIZE --shape seq=SIZE"):
        random_inputs(spec, 3)
    with pytest.raises(InputError, match=r"expected sizes >= 0 .* got {'seq': -1, 'h\.2': 5}"):
        random_inputs(spec, 3, {"seq": -1, "h.2": 5})


def test_taken_rows_repeat_and_are_contiguous():
    spec = spec_of(
        TensorSpec("x", np.dtype(np.float32), (2, None), batch_axis=1, rows_per_row=2),
        TensorSpec("table", np.dtype(np.float32), (7,), batch_axis=None),
    )
    inputs = random_inputs(spec, 3)
    fewer, more = take_rows(spec, inputs, 2), take_rows(spec, inputs, 7)
    np.testing.assert_array_equal(fewer["x"], inputs["x"][:, :4])
    np.testing.assert_array_equal(more["x"], np.tile(inputs["x"], 3)[:, :14])
    assert all(taken["x"].flags.c_contiguous and taken["table"] is inputs["table"] for taken in (fewer, more))


def test_a_scalar_that_is_taken_stays_one():
    spec = spec_of(
        TensorSpec("x", np.dtype(np.float32), (None, 2)), TensorSpec("limit", np.dtype(np.float32), (), batch_axis=None)
    )
    assert take_rows(spec, {"x": np.ones((1, 2), np.float32), "limit": np.array(0.5, np.float32)}, 3)["limit"].shape == ()


# --- backends ---


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install plugins, given as distribution, entry point and code, and look at nothing else from then on."""
    counter = iter(range(100))

    def install_all(*plugins):
        site = tmp_path / f"site{next(counter)}"
        for distribution, entry_point, code in plugins:
            module = f"plugin_{next(counter)}_{tmp_path.name.replace('-', '_')}"
            info = site / f"{module}-1.0.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[anybatch]\n{entry_point} = {module}\n")
            (site / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(site)
        found = [entry_point for found in distributions(path=[str(site)]) for entry_point in found.entry_points]
        registry = anybatch.Registry(found)
        monkeypatch.setattr("anybatch._registry.registry", lambda: registry)

    return install_all


def plugin(body, name="toy"):
    return f"""
import anybatch
from anybatch._backends.onnxruntime import OnnxRuntimeBackend

class Toy(OnnxRuntimeBackend):
    name = {name!r}
    suffixes = frozenset({{".toy"}})
    def check_usable(self):
        return "toy 1.0"
{textwrap.indent(textwrap.dedent(body), "    ")}

@anybatch.hookimpl
def anybatch_backends():
    return [Toy()]
"""


GOOD = plugin("pass")
UNUSABLE = plugin(
    """
    def check_usable(self):
        raise anybatch.BackendUnavailableError("toy: package 'toysdk' is not installed")
    """
)
BUGGY = plugin(
    """
    def check_usable(self):
        raise RuntimeError("two\\nlines")
    """
)
ONE_SIZE = plugin(
    """
    def open(self, model, *, device, batch_sizes, options):
        if len(batch_sizes) > 1:
            raise anybatch.InputError("one batch size only")
        return super().open(model, device=device, batch_sizes=batch_sizes, options=options)
    """
)
WRONG = plugin(
    """
    def open(self, model, **arguments):
        session = super().open(model, **arguments)
        execute = session.execute
        class Wrong:
            spec, batching, concurrency, close = session.spec, session.batching, session.concurrency, session.close
            def execute(self, inputs, gear, out=None):
                return {name: array + 1 for name, array in execute(inputs, gear).items()}
        return Wrong()
    """
)
BROKEN_DEVICE = plugin(
    """
    def open(self, model, **arguments):
        raise anybatch.DeviceError("it smokes", backend="toy", operation="toyOpen", status=7)
    """
)


def test_the_embedded_backend_passes(cli):
    result = cli("backends", "onnxruntime", "--run", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["ok"] is True
    (backend,) = result.json["backends"]
    assert (backend["name"], backend["distribution"], backend["suffixes"]) == ("onnxruntime", "anybatch", [".onnx"])
    assert backend["run"]["passed"] is True
    assert backend["run"]["seconds"] > 0


def test_usable_backend(cli, install):
    install(("anybatch-toy", "toy", GOOD))
    result = cli("backends")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "backend  usable  opens  distribution  detail\n"
        "toy      yes     .toy   anybatch-toy  toy 1.0\n"
    )  # fmt: skip
    assert cli("backends", "--json").json == {
        "ok": True,
        "backends": [
            {"name": "toy", "distribution": "anybatch-toy", "suffixes": [".toy"], "usable": True, "detail": "toy 1.0"}
        ],
        "failures": [],
    }


@pytest.mark.parametrize(
    ("code", "detail"),
    [(UNUSABLE, "package 'toysdk' is not installed"), (BUGGY, "check_usable failed: RuntimeError: two")],
    ids=["unusable", "buggy"],
)
def test_unusable_backend(cli, install, code, detail):
    install(("anybatch-toy", "toy", code))
    result = cli("backends", "--run", "--json")
    assert result.code == 1
    assert result.json["ok"] is False
    (backend,) = result.json["backends"]
    assert (backend["usable"], backend["detail"], "run" in backend) == (False, detail, False)
    assert detail in cli("backends").out


def test_one_usable_backend_is_enough_unless_others_are_named(cli, install):
    install(("anybatch-toy", "toy", GOOD), ("anybatch-sick", "sick", UNUSABLE.replace("'toy'", "'sick'")))
    assert cli("backends").code == 0
    assert cli("backends", "toy", "toy").out.count("yes") == 1
    assert cli("backends", "sick").code == 1
    assert cli("backends", "toy", "sick").code == 1


@pytest.mark.parametrize("code", [GOOD, ONE_SIZE], ids=["any sizes", "one size"])
def test_trial_passes(cli, install, code):
    install(("anybatch-toy", "toy", code))
    result = cli("backends", "--run")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1].split()[:3] == ["toy", "yes", "passed"]


@pytest.mark.parametrize(
    ("code", "detail"),
    [(WRONG, "AssertionError: expected [["), (BROKEN_DEVICE, "DeviceError: toy: toyOpen failed (status 7): it smokes")],
    ids=["wrong result", "broken device"],
)
def test_trial_fails(cli, install, code, detail):
    install(("anybatch-toy", "toy", code))
    result = cli("backends", "--run", "--json")
    assert result.code == 1
    (backend,) = result.json["backends"]
    assert (backend["usable"], backend["run"]["passed"]) == (True, False)
    assert backend["detail"].startswith(detail)
    text = cli("backends", "--run")
    assert text.code == 1
    assert "FAILED" in text.out
    assert cli("backends").code == 0  # without --run nothing is tried


def test_a_broken_plugin_hides_no_other(cli, install):
    install(("anybatch-toy", "toy", GOOD), ("anybatch-sick", "sick", "raise ImportError('libsick.so.1\\nsecond line')"))
    result = cli("backends", "--json")
    assert result.code == 0
    assert [backend["name"] for backend in result.json["backends"]] == ["toy"]
    failure = {"plugin": "sick", "distribution": "anybatch-sick", "error": "ImportError: libsick.so.1"}
    assert result.json["failures"] == [failure]
    text = cli("backends").out
    assert text.endswith("failed to load: plugin 'sick' of anybatch-sick: ImportError: libsick.so.1\n")
    named = cli("backends", "sick", "--json")
    assert named.code == 1
    assert "could not be loaded" in named.json["backends"][0]["detail"]


def test_a_name_claimed_twice(cli, install):
    install(("anybatch-toy", "toy", GOOD), ("toy-fork", "toy", GOOD))
    result = cli("backends", "--json")
    assert result.code == 1
    (backend,) = result.json["backends"]
    assert sorted(backend["distribution"].split(", ")) == ["anybatch-toy", "toy-fork"]
    assert "is claimed by" in backend["detail"]
    assert "uninstall all but one" in cli("backends").out.replace("\n", "")


def test_no_backend_at_all(cli, install):
    install()
    assert cli("backends") == Result(1, "no backend is installed\n", "")
    assert cli("backends", "--json").json == {"ok": False, "backends": [], "failures": []}


def test_a_backend_that_is_not_installed(cli, install):
    install(("anybatch-toy", "toy", GOOD))
    result = cli("backends", "nope", "--json")
    assert result.code == 1
    assert "no backend 'nope' is installed" in result.json["backends"][0]["detail"]


def test_a_simulator_is_called_one(cli, install, save_model):
    install(("anybatch-toy-sim", "toy-sim", GOOD.replace("'toy'", "'toy-sim'")))
    model = save_model("same (float[rows, 3] x) => (float[rows, 3] y) { y = Identity(x) }", "model.toy")
    arguments = ("bench", model, "--rows", "1", "--iterations", "1")
    assert cli(*arguments, "--json").json["simulated"] is True
    assert "SIMULATED: how long the simulator takes on this machine, which says nothing of hardware" in cli(*arguments).out
    assert cli("inspect", model, "--json").json["simulated"] is True
    assert ", simulated (" in cli("inspect", model).out


# --- tables ---


@pytest.mark.parametrize("columns", [200, 80, 40, 20])
def test_nothing_is_cut_off(cli, monkeypatch, scale, both, tmp_path, columns):
    rows = saved(tmp_path / "x.npy", numbers(9))
    outputs = []
    for arguments in (
        ["backends", "--run"],
        ["inspect", both],
        [*PLAN, "--rows", "13"],
        ["run", scale, "--input", rows, "--batch-sizes", "4"],
        ["bench", scale, "--batch-sizes", "4", "--iterations", "1"],
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        folded = cli(*arguments).out
        assert "…" not in folded
        assert not any(line.endswith(" ") for line in folded.splitlines())
        outputs.append(folded)
    letters = "".join("".join(outputs).split())
    assert "anybatchonnxruntime" in letters or columns < 80
    assert "largest_first" in letters or columns < 40
    assert Counter("".join(outputs))["━"] >= 12


def test_bars_are_ascii_where_nothing_else_can_be_printed():
    result = python("-m", "anybatch", *PLAN, "--rows", "13", PYTHONIOENCODING="latin-1")
    assert "#" * 20 in result.stdout


def test_brackets_and_colons_are_text(cli, install):
    install(("anybatch-toy", "toy", UNUSABLE.replace("package 'toysdk'", "[bold]toysdk[/bold] :smile:")))
    assert "[bold]toysdk[/bold] :smile: is not installed" in cli("backends").out


# --- compile ---


COMPILER = plugin(
    """
    def compile(self, model, *, batch_sizes, output, options, progress):
        anybatch.check_options(options, ("some_option", "other", "fail"), backend=self.name)
        if options.get("fail"):
            error = anybatch.ModelError("it does not compile")
            error.__notes__ = ["the tool said:", "E1: [no] markup"]
            raise error
        progress("[step]  1\\nof 2")
        spec = anybatch.read_model_spec(anybatch.read_model(model))
        path = output or model.with_suffix(".cached")
        path.write_text(repr(sorted(options.items())))
        temporary = options.get("other") == "temporary"
        return anybatch.Compiled(path, spec, tuple(batch_sizes or (7,)), False, temporary, ("eat more greens",) * (not output))
    """
)


@pytest.fixture
def compiler(install):
    install(("anybatch-toy", "toy", COMPILER), ("anybatch-plain", "plain", plugin("pass", "plain")))
    return ["--backend", "toy"]


def test_compile_prints_the_path_and_nothing_else(cli, compiler, scale, tmp_path):
    output = tmp_path / "out.bin"
    result = cli("compile", scale, *compiler, "--batch-sizes", "4,1", "--output", output)
    assert result == Result(0, f"{output}\n", "")
    assert output.read_text() == "[]"


def test_compile_as_json_and_advice_on_stderr(cli, compiler, scale):
    result = cli("compile", scale, *compiler, "--batch-sizes", "4,1", "--json")
    assert (result.code, result.err) == (0, "note: eat more greens\n")
    assert result.json == {
        "model": str(scale),
        "backend": "toy",
        "simulated": False,
        "path": str(scale.with_suffix(".cached")),
        "batch_sizes": [1, 4],
        "cached": False,
        "temporary": False,
        "advice": ["eat more greens"],
    }


@pytest.mark.parametrize(
    "flags",
    [
        ["--some-option", "Chip310", "--other", "[1, null]"],
        ["--some_option=Chip310", "--other=[1, null]"],
        ["--option", "some_option=Chip310", "--option", "other=[1, null]"],
        ["--some-option", "Chip310", "--option=other=[1, null]"],
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_compile_takes_options_of_the_backend_as_flags(cli, compiler, scale, tmp_path, flags, first):
    output = tmp_path / "out"
    words = [*flags, scale] if first else [scale, *flags]
    assert cli("compile", *words, *compiler, "--output", output).code == 0
    assert output.read_text() == "[('other', [1, None]), ('some_option', 'Chip310')]"


def test_values_of_flags_may_begin_with_a_dash(cli, compiler, scale, tmp_path):
    output = tmp_path / "out"
    assert cli("compile", scale, *compiler, "--output", output, "--other", "-1", "--some-option=--x").code == 0
    assert output.read_text() == "[('other', -1), ('some_option', '--x')]"


def test_compile_after_two_dashes_comes_the_model(cli, compiler, monkeypatch, scale):
    monkeypatch.chdir(scale.parent)
    scale.rename("--odd.onnx")
    assert cli("compile", *compiler, "--", "--odd.onnx").out == "--odd.cached\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bacth-sizes", "1"], "no such option --bacth-sizes; did you mean --batch-sizes?"),
        (["--batch-size", "1"], "no such option --batch-size; did you mean --batch-sizes?"),
        (["--some-option"], "--some-option is passed to the backend and needs a value, such as --some-option=true"),
        (["--some-option", "--json"], "--some-option is passed to the backend and needs a value"),
        (["-x"], "No such option: -x"),
        (["--output"], "Option '--output' requires an argument"),
    ],
)
def test_compile_wrong_flags(cli, compiler, scale, flags, message):
    result = cli("compile", scale, *compiler, *flags)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--soem-option", "1"], "backend 'toy' has no option 'soem_option', only ['fail', 'other', 'some_option']"),
        (["--progress", "1"], "--option progress: this is no option of a backend"),
        (["--batch-sizes", "0"], "expected batch sizes to be ints of at least 1, got 0"),
        (["--backend", "plain"], "backend 'plain' compiles nothing ahead: it opens models as they are"),
    ],
)
def test_compile_what_does_not_fit(cli_fails, compiler, scale, flags, message):
    assert message in cli_fails("compile", scale, *compiler, *flags)


def test_compile_says_that_a_simulator_did_it(cli, install, scale, tmp_path):
    install(("anybatch-toy-sim", "toy-sim", COMPILER.replace("'toy'", "'toy-sim'")))
    output = tmp_path / "out.bin"
    result = cli("compile", scale, "--backend", "toy-sim", "--output", output)
    assert result == Result(0, f"{output}\n", "note: compiled by a simulator: toy-sim opens the file, hardware does not\n")
    assert cli("compile", scale, "--backend", "toy-sim", "--output", output, "--json").json["simulated"] is True


def test_compile_needs_a_backend(cli, compiler, scale):
    result = cli("compile", scale)
    assert (result.code, result.out) == (2, "")
    assert "Missing option '--backend'" in result.err


def test_compile_says_where_a_temporary_result_is(cli, compiler, scale):
    result = cli("compile", scale, *compiler, "--other", "temporary")
    assert result.out == f"{scale.with_suffix('.cached')}\n"
    assert "is a temporary file; --output FILE chooses its place" in result.err


def test_compile_shows_all_that_the_tool_said(cli, compiler, scale):
    result = cli("compile", scale, *compiler, "--fail", "true")
    expected = "anybatch: ModelError: it does not compile\nthe tool said:\nE1: [no] markup\n"
    assert result == Result(2, "", expected)


def test_compile_shows_progress_on_a_terminal(cli, compiler, monkeypatch, scale):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    result = cli("compile", scale, *compiler)
    assert result.out == f"{scale.with_suffix('.cached')}\n"
    assert "compiling model.onnx" in result.err


def test_activity_shows_the_latest_line_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "60")
    with activity("compiling") as show:
        show("[bold]  two\nlines")
    # What is drawn last is what was shown last; markup is text, and a line is one line.
    assert "compiling: [bold] two lines" in capsys.readouterr().err


def test_compile_from_python(compiler, scale, tmp_path):
    said = []
    compiled = anybatch.compile(scale, backend="toy", batch_sizes=[8, 2], output=str(tmp_path / "o"), progress=said.append)
    assert (compiled.path, compiled.batch_sizes, compiled.cached) == (tmp_path / "o", (2, 8), False)
    assert [tensor.name for tensor in compiled.spec.inputs] == ["x"]
    assert len(said) == 1
    with pytest.raises(anybatch.BackendNotFoundError):
        anybatch.compile(scale, backend="nope")
    with pytest.raises(anybatch.ModelError, match="does not exist"):
        anybatch.compile(tmp_path / "nothing.onnx", backend="toy")
