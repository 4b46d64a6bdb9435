"""``anybatch advise``: what it prints, what it takes, and what it refuses."""

import json
from types import SimpleNamespace

import onnx.parser
import pytest

import anybatch
from anybatch import AffineCosts, ContractError, InputError, advise, gear_limits
from anybatch._cli import app
from anybatch.testing import FakeBackend

COSTS = ("--overhead", "4", "--per-row", "1")


@pytest.fixture
def cli(capsys, monkeypatch):
    """Call the command, and return its exit code, output and errors."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app(["advise", *map(str, arguments)], prog_name="anybatch")
        return SimpleNamespace(code=exit_.value.code, **capsys.readouterr()._asdict())

    return call


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("rows,count\n1,10\n4,5\n30,5\n")
    return path


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    text = '<ir_version: 8, opset_import: ["": 17]> neg (float[rows, 3] x) => (float[rows, 3] y) { y = Neg(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_prints_the_advice_and_the_line_to_use(cli, trace):
    result = cli(trace, *COSTS, "--candidates", "1,4,8,16,32", "--max-gears", 2, "--current", "8,32")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "20 requests, 9 rows on average: compile 4, 32\n"
        "cost      15 per request, 1.667 per row; the least possible\n"
        "costs     overhead and per row as given\n"
        "the number of gears binds: beyond it, one more or another gear saves 10.00%\n"
        "\n"
        "gear  cost  known     launches  of cost\n"
        "   4     8  modelled      0.75      40%  ━━━━━━━━\n"
        "  32    36  modelled      0.25      60%  ━━━━━━━━━━━━\n"
        "\n"
        "instead          cost    more                        gears\n"
        "compiled now       18  +20.0%  ━━━━━━━━━━━━          8, 32\n"
        "powers of two    13.5  -10.0%                        1, 2, 4, 8, 16, 32  beyond max_gears\n"
        "one gear           21  +40.0%  ━━━━━━━━━━━━━━━━━━━━  8\n"
        "every candidate  13.5  -10.0%                        1, 4, 8, 16, 32  beyond max_gears\n"
        "\n"
        "at most  cost    more                        gears\n"
        "1 gear     21  +40.0%  ━━━━━━━━━━━━━━━━━━━━  8\n"
        "2 gears    15          ━━━━                  4, 32\n"
        "\n"
        "--dynamic_batch_size=4,32\n"
        "batch_sizes=[4, 32]\n"
    )


def test_json_is_the_advice(cli, trace):
    result = cli(trace, *COSTS, "--max-gears", 3, "--json")
    advice = advise(trace, AffineCosts(4, 1, source="overhead and per row as given"), max_gears=3)
    document = json.loads(result.out)
    assert document["gears"] == list(advice.gears)
    assert document["cost"] == advice.cost
    assert document["gap"] == advice.gap and document["lower_bound"] == advice.lower_bound
    assert document["compiler_line"] == advice.compiler_line
    assert document["batch_sizes_line"] == advice.batch_sizes_line
    assert [choice["gears"] for choice in document["curve"]] == [list(choice.gears) for choice in advice.curve]
    assert document["uses"][0]["provenance"] == "modelled"
    assert document["binding"] == advice.binding


def test_budgets(cli, trace):
    result = cli(
        trace, *COSTS, "--compile-s", "1=10,32=20", "--max-compile-s", "35", "--max-memory", "1.5K", "--bytes-per-row", "64B",
        "--bytes-fixed", "256", "--min-gears", "2", "--tolerance", "0.01", "--json",
    )  # fmt: skip
    document = json.loads(result.out)
    given = advise(
        trace,
        AffineCosts(4, 1),
        compile_s={1: 10, 32: 20},
        max_compile_s=35,
        max_memory_bytes=1536,
        bytes_per_row=64,
        bytes_fixed=256,
        min_gears=2,
        tolerance=0.01,
    )
    assert document["gears"] == list(given.gears)
    assert document["compile_s"] == given.compile_s <= 35
    assert document["memory_bytes"] == given.memory_bytes <= 1536
    text = cli(trace, *COSTS, "--compile-s", "10", "--max-memory", "2k", "--bytes-per-row", "64", "--max-gears", "1").out
    assert "compile   10 s\n" in text and f"memory    {64 * 9:,} bytes" not in text and "memory    " in text
    assert "--dynamic_batch_size" not in text  # one size is no gear


def test_costs_of_a_table_are_interpolated_and_said_to_be(cli, trace):
    result = cli(trace, "--gears", "1,32", "--costs", "5,36", "--candidates", "1,4,32")
    assert "interpolated" in result.out
    assert "since nobody measured [4]: compile them, measure, ask again" in result.out


def test_a_model_brings_its_costs_and_its_batch_sizes(cli, trace, model):
    document = json.loads(cli(trace, model, "--gears", "2,8", "--json").out)
    assert document["alternatives"][0] | {"cost": 0} == {"name": "compiled now", "gears": [2, 8], "cost": 0, "violates": []}
    assert document["cost_source"] == "affine prior, nothing measured"
    document = json.loads(cli(trace, model, "--gears", "2,8", "--costs", "6,12", "--current", "1", "--json").out)
    assert document["alternatives"][0]["gears"] == [1]
    assert document["cost_source"] == "given by the caller"


def test_a_calibration_is_taken(cli, trace, tmp_path, model):
    with anybatch.open(model, batch_sizes=[1, 4]) as runner:
        runner.calibrate(seconds=0.05, save=False).save(tmp_path / "costs.json")
    document = json.loads(cli(trace, "--calibration", tmp_path / "costs.json", "--json").out)
    assert document["cost_unit"] == "ms" and document["cost_source"].startswith("measured ")
    result = cli(trace, "--calibration", tmp_path / "costs.json", *COSTS)
    assert (result.code, result.err) == (
        2,
        "anybatch: InputError: expected --calibration, or costs by other options, got both\n",
    )


def test_the_limits_of_a_backend(cli, trace, monkeypatch):
    limited = FakeBackend()
    limited.gear_limits = (1, 2)
    monkeypatch.setattr("anybatch._registry.registry", lambda: SimpleNamespace(get={"fake": limited}.__getitem__))
    document = json.loads(cli(trace, *COSTS, "--backend", "fake", "--json").out)
    assert len(document["gears"]) == 2
    assert list(document["binding"]) == ["backend_gears"]
    assert gear_limits(limited) == (1, 2)
    assert gear_limits(FakeBackend()) == (1, None)


@pytest.mark.parametrize("limits", [(0, 4), (4, 2), (1,), [1, 2], (1, "many"), None])
def test_limits_that_are_none(limits):
    backend = FakeBackend()
    backend.gear_limits = limits
    with pytest.raises(ContractError, match="expected gear_limits as the least and the most batch sizes, such as"):
        gear_limits(backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--gears", "1,4"),
            "--gears is for --costs or a MODEL; --current says what is compiled now, --candidates what could be",
        ),
        (("--option", "a=1"), "--device and --option are for opening a MODEL, but there is none"),
        (("--compile-s", "long"), "--compile-s: expected seconds such as 20, or by size such as 1=10,64=35, got 'long'"),
        (("--compile-s", "1=a"), "--compile-s: expected seconds such as 20, or by size such as 1=10,64=35, got '1=a'"),
        (("--compile-s", "1=2,=3"), "--compile-s: expected NAME=VALUE, got '=3'"),
        (
            ("--max-memory", "much", "--bytes-per-row", "1"),
            "--max-memory: expected bytes such as 4096, 512K, 1.5G (of 1024 each), got 'much'",
        ),
        (("--max-memory", "1K"), "max_memory_bytes needs bytes_per_row: what each row of the largest gear takes"),
        (("--max-gears", "2", "--min-gears", "3"), "the number of gears binds: at most 2, but min_gears is 3"),
        (("--candidates", "1,x"), "--candidates: expected whole numbers such as 1,4,8, got '1,x'"),
    ],
)
def test_bad_arguments(cli, trace, arguments, message):
    result = cli(trace, *arguments)
    assert (result.code, result.out, result.err) == (2, "", f"anybatch: InputError: {message}\n")


def test_a_bad_trace_is_found_before_a_model_is_opened(cli, tmp_path):
    (tmp_path / "trace.csv").write_text("4\n0\n")
    result = cli(tmp_path / "trace.csv", tmp_path / "no model")
    assert result.err == (
        f"anybatch: InputError: {tmp_path}/trace.csv, line 2: expected requests of 1 to 1,000,000,000 rows, got 0\n"
    )


def test_budgets_nothing_meets(cli, trace):
    result = cli(trace, "--max-memory", "1M", "--bytes-per-row", "2M")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("anybatch: InputError: memory binds: the smallest candidate needs 2,097,152 bytes")


def test_stats_of_a_runner_are_a_trace(model):
    import numpy as np

    with anybatch.open(model, batch_sizes=[1, 8]) as runner:
        for rows in (5, 5, 0, 7):
            runner.run({"x": np.zeros((rows, 3), np.float32)})
        advice = advise(runner.stats(), AffineCosts(4, 1), max_gears=1)
    assert (advice.requests, advice.rows) == (3, 17)
    with pytest.raises(InputError, match="at least one request"):
        advise(SimpleNamespace(sizes={}))


def test_charts_cost_over_gears_in_files_and_here(cli, trace, tmp_path):
    files = [tmp_path / "advice.svg", tmp_path / "advice.png"]
    options = [part for target in (*files, "-") for part in ("--plot", target)]
    result = cli(trace, *COSTS, "--candidates", "1,4,8,16,32", "--max-gears", 3, *options)
    assert (result.code, result.err) == (0, "")
    assert "best set of that many gears" in files[0].read_text()
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "best set of that many gears" in result.out
    assert result.out.endswith(f"written   {files[0]}\nwritten   {files[1]}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plot", "-", "--json"), "with --json there is nothing but JSON on stdout: give a chart a file, not -"),
        (("--plot", "advice.pdf.txt"), ".txt"),
        (("--plot", "a.svg", "--plot", "a.svg"), "expected each chart's file once, got a.svg, a.svg"),
    ],
)
def test_charts_that_cannot_be_drawn_are_refused_first(cli, trace, options, message):
    result = cli(trace, *COSTS, *options)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
