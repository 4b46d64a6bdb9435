"""``anybatch calibrate``, and what plan, inspect and bench do with what it kept."""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import numpy as np
import onnx.parser
import pytest

import anybatch
from anybatch import AnyBatch, Calibration, CurveCosts, Gears, Measurement, MultipleOf, Planner
from anybatch._cli import app
from anybatch._cli.calibrate import _ranges, find_changes
from anybatch._cli.inspect import age
from anybatch._version import __version__
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, MODELS


class Ticks:
    name = "clock of the model"

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Simulated(FakeBackend):
    """A fake whose launches take the time that a curve says, on a clock of its own."""

    name = "fake-sim"
    suffixes = frozenset({".onnx"})

    def __init__(self, batching=None, curve=lambda size: 1e-3 * (1 + size)):
        super().__init__(batching)
        self.clock = Ticks()
        self.curve = curve

    def _begin(self, launch):
        super()._begin(launch)
        if self.clock is not None:
            self.clock.now += self.curve(launch.gear)


@dataclass
class Only:
    """A registry of one backend."""

    backend: FakeBackend

    def get(self, _name):
        return self.backend

    def for_suffix(self, _suffix):
        return self.backend


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
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app([str(argument) for argument in arguments], prog_name="anybatch")
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def fails(cli):
    """Call the command line, expect bad input, and return the one line on stderr without its prefix."""

    def call(*arguments):
        result = cli(*arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert result.err.startswith("anybatch: InputError: ")
        return result.err.removeprefix("anybatch: InputError: ").rstrip("\n")

    return call


@pytest.fixture
def only(monkeypatch):
    """Have one backend and no other; return it."""

    def install(backend):
        monkeypatch.setattr("anybatch._registry.registry", lambda: Only(backend))
        return backend

    return install


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models" / "affine.onnx"
    path.parent.mkdir()
    path.write_bytes(AFFINE.onnx_bytes)
    return path


def kept(model):
    (path,) = model.parent.glob("*.costs.json")
    return path


# --- calibrate ---


def test_calibrate_for_people(cli, only, model):
    only(Simulated(Gears((1, 4, 8)), lambda size: {1: 1e-3, 4: 1.2e-3, 8: 8e-3}[size]))
    result = cli("calibrate", model)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{model} on fake-sim (NumPy, in memory), gears 1, 4, 8"
    assert lines[1] == "SIMULATED: times on the clock of the model; no hardware was measured"
    assert lines[2].startswith("times in ms on the clock of the model; measured for ")
    assert lines[3] == "sure enough: all medians are known within 2 %, with 95 % confidence"
    assert lines[4:] == [
        "",
        "rows  median  95 % interval  launches  per row  of best",
        "   1    1.00    1.00 - 1.00         6     1.00      30%  ━━━━━━",
        "   4    1.20    1.20 - 1.20         6     0.30     100%  ━━━━━━━━━━━━━━━━━━━━",
        "   8    8.00    8.00 - 8.00         6     1.00      30%  ━━━━━━",
        "",
        "instead of   planned otherwise, of 1 to 16 rows  saves in all  at most",
        "the prior    11: 6-16                                   62.4%  70.0%: 6 rows as 4 + 4 (2 rows), not 8 (6 rows)",
        "rounding up  12: 5-16                                   65.6%  72.5%: 5 rows as 4 + 1, not 8 (5 rows)",
        f"saved in {kept(model)}; it is found there from now on",
    ]


def test_calibrate_as_json(cli, only, model):
    only(Simulated(curve=lambda size: {1: 1e-3, 4: 1.2e-3, 8: 8e-3}[size]))
    result = cli("calibrate", model, "--tolerance", "0.05", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (document["backend"], document["simulated"], document["runtime"]) == ("fake-sim", True, "NumPy, in memory")
    assert (document["clock"], document["machine"]) == ("clock of the model", None)
    assert (document["tight"], document["tolerance"]) == (True, 0.05)
    assert document["batching"] == {"kind": "Gears", "sizes": [1, 4, 8], "pads": False}
    assert document["path"] == str(kept(model))
    assert [each["size"] for each in document["measurements"]] == [1, 4, 8]
    assert document["measurements"][1]["median_s"] == pytest.approx(1.2e-3)
    assert document["measurements"][1]["per_row_s"] == pytest.approx(0.3e-3)
    assert document["measurements"][1]["launches"] == 6
    assert document["measurements"][1]["tight"] is True
    prior, round_up = document["changes"]
    assert (prior["instead_of"], round_up["instead_of"], prior["requests"]) == ("the prior", "rounding up", 16)
    assert 8 in prior["rows"]
    assert 0 < prior["saved"] < prior["most"] == pytest.approx(0.7)
    assert [plan["launches"] for plan in prior["example"]] == [
        [{"gear": 8, "rows": 6}],
        [{"gear": 4, "rows": 4}, {"gear": 4, "rows": 2}],
    ]


def test_what_was_not_sure_in_time_is_named(cli, only, model):
    noise = iter(np.random.default_rng(0).lognormal(0, 1, 10_000))
    only(Simulated(Gears((1, 4)), lambda size: 1e-3 if size == 1 else next(noise)))
    result = cli("calibrate", model, "--seconds", "0.05", "--tolerance", "1e-3")
    assert "time is over: not known within 0.1 % are the medians of 4; --seconds gives more time" in result.out
    assert Calibration.load(kept(model)).is_tight is False


def test_calibrate_on_a_wall_clock_says_so(cli, model):
    result = cli("calibrate", model, "--seconds", "0.05", "--max-rows", "2")
    assert (result.code, result.err) == (0, "")
    assert "SIMULATED" not in result.out
    assert " on the wall clock; measured for " in result.out
    assert [each.size for each in Calibration.load(kept(model)).measurements][:2] == [1, 2]
    document = cli("calibrate", model, "--seconds", "0.05", "--batch-sizes", "1,4", "--json").json
    assert document["machine"]
    assert (document["clock"], document["simulated"]) == ("wall clock", False)


def test_a_simulator_without_a_clock_is_called_one(cli, only, model):
    backend = only(Simulated(Gears((1, 4))))
    backend.clock, backend.curve = None, None
    assert "SIMULATED: how long the simulator takes on this machine" in cli("calibrate", model, "--seconds", "0.01").out


def test_where_any_number_is_launched_splits_are_told(cli, only, model):
    only(Simulated(AnyBatch(), lambda size: 1e-3 * (1 + size) * (3 if size > 5 else 1)))
    result = cli("calibrate", model, "--max-rows", "8")
    (line,) = [line for line in result.out.splitlines() if line.startswith("one launch")]
    assert "  11: 6-16  " in line
    assert "rounding up" not in result.out


def test_what_looks_cheaper_otherwise_by_less_than_can_be_told_is_explained(cli, only, model):
    # One launch of 8 rows for 5 is a little dearer than the prior's 4 + 1, and all that is noisy.
    noise = np.random.default_rng(0)
    costs = {1: 3.0e-3, 4: 6.0e-3, 8: 9.4e-3}
    only(Simulated(Gears((1, 4, 8)), lambda size: costs[size] * float(noise.lognormal(0, 0.04))))
    lines = cli("calibrate", model, "--tolerance", "0.3").out.splitlines()
    (prior,) = [line for line in lines if line.startswith("the prior ")]
    assert " -" in prior
    assert lines[-2] == "below 0: the other plans look cheaper, by less than these figures can tell"


def test_where_nothing_changes_that_is_told(cli, only, model):
    only(Simulated(AnyBatch()))
    assert "requests of 1 to 16 rows are planned as by one launch\n" in cli("calibrate", model, "--max-rows", "8").out
    only(Simulated(Gears((1, 4)), lambda size: 1e-3 * (2 + size)))
    assert "requests of 1 to 8 rows are planned as by the prior and by rounding up\n" in cli("calibrate", model).out


@pytest.mark.parametrize("batching", [MultipleOf(4), Gears((1, 4))])
def test_where_there_is_nothing_to_choose_that_is_told(cli, only, tmp_path, batching):
    without_rows = next(model for model in MODELS if any(t.batch_axis is None for t in model.spec.outputs))
    source = AFFINE if isinstance(batching, MultipleOf) else without_rows
    path = tmp_path / "model.onnx"
    path.write_bytes(source.onnx_bytes)
    only(Simulated(batching))
    result = cli("calibrate", path)
    assert result.code == 0
    assert "plans stay as they were: this model and its batch sizes leave nothing to choose" in result.out
    assert cli("calibrate", path, "--json").json["changes"] == []


def test_calibrating_anew_takes_no_notice_of_what_was_kept(cli, only, model):
    only(Simulated())
    cli("calibrate", model)
    kept(model).write_text("{")
    result = cli("calibrate", model)
    assert (result.code, result.err) == (0, "")
    assert Calibration.load(kept(model)).measurements


def test_output_saves_it_there_instead(cli, only, model, tmp_path):
    only(Simulated())
    target = tmp_path / "costs.json"
    for _ in range(2):  # a calibration is replaced
        result = cli("calibrate", model, "--output", target)
        assert result.out.endswith(f"saved in {target}; used where it is named: --calibration {target}\n")
    assert not list(model.parent.glob("*.costs.json"))
    assert cli("inspect", model, "--json").json["calibration"] is None


def test_output_replaces_nothing_but_calibrations(fails, only, model, tmp_path):
    backend = only(Simulated())
    assert fails("calibrate", model, "--output", model).startswith(
        f"{model}: only a calibration is replaced, delete it first: "
    )
    assert model.read_bytes() == AFFINE.onnx_bytes
    assert "only a calibration is replaced" in fails("calibrate", model, "--output", tmp_path)
    missing = tmp_path / "none" / "c.json"
    assert fails("calibrate", model, "--output", missing) == f"{missing}: there is no folder {str(missing.parent)!r}"
    assert backend.calls == {}, "all of that before the model is opened"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "expected seconds > 0 and tolerance > 0, both finite, got 0.0 and 0.02"),
        (["--tolerance", "nan"], "expected seconds > 0 and tolerance > 0, both finite, got 10.0 and nan"),
        (["--max-rows", "0"], "expected max_rows >= 1, got 0"),
        (["--input", "none.npy"], "none.npy: there is no such file"),
        (["--shape", "a=1"], "expected sizes >= 0 for the free dimensions [], got {'a': 1}"),
    ],
)
def test_calibrations_that_do_not_fit(fails, only, model, arguments, message):
    only(Simulated(AnyBatch()))
    assert fails("calibrate", model, *arguments) == message
    assert not list(model.parent.glob("*.costs.json"))


def test_a_simulator_without_a_cost_model(fails, only, model):
    only(Simulated(curve=lambda _size: 0.0))
    assert "launches take no time on this clock" in fails("calibrate", model)


def test_rows_of_a_file_and_free_dimensions(cli, fails, tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> free (float[rows, seq] x) => (float[rows, seq] y) { y = Neg(x) }'
    path, rows = tmp_path / "free.onnx", tmp_path / "rows.npy"
    onnx.save(onnx.parser.parse_model(text), path)
    np.save(rows, np.zeros((3, 5), np.float32))
    shared = ("calibrate", path, "--seconds", "0.01", "--max-rows", "4")
    assert fails(*shared) == "the model leaves dimensions free: give each a size, --shape seq=SIZE"
    assert fails(*shared, "--shape", "seq=5", "--input", rows) == "--shape is for random inputs, but --input gives some"
    assert cli(*shared, "--shape", "seq=5").code == 0
    assert cli(*shared, "--input", rows).code == 0


def test_changes_are_what_the_plans_say():
    costs = CurveCosts({1: 1.0, 4: 1.2, 8: 8.0})
    batching = Gears((1, 4, 8))
    prior, round_up = find_changes(batching, costs)
    now, before = Planner(batching, costs), Planner(batching)
    for change, plan in ((prior, before.plan), (round_up, lambda rows: now.plan(rows, policy="round_up"))):
        others = [rows for rows in range(1, 17) if plan(rows).launches != now.plan(rows).launches]
        took = {rows: sum(costs.of(launch.gear) for launch in plan(rows).launches) for rows in range(1, 17)}
        takes = {rows: now.plan(rows).cost for rows in range(1, 17)}
        assert list(change.rows) == others
        assert change.saved == pytest.approx(1 - sum(takes.values()) / sum(took.values()))
        assert change.most == pytest.approx(max(1 - takes[rows] / took[rows] for rows in took))
        assert change.example[1] == now.plan(change.example[1].rows)
        assert change.example[0] == plan(change.example[1].rows)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([1, 2], "1-2"),
        ([1, 3, 4, 5, 9], "1, 3-5, 9"),
        (range(1, 40, 2), "1, 3, 5, 7, 9, 11, 13, 15, ..."),
    ],
)
def test_ranges(numbers, text):
    assert _ranges(numbers) == text


# --- plan ---


def test_plan_takes_what_was_kept_and_says_so(cli, only, model):
    only(Simulated(Gears((1, 4, 8)), lambda size: {1: 1e-3, 4: 1.2e-3, 8: 8e-3}[size]))
    assert "costs: affine prior, nothing measured" in cli("plan", model, "--rows", "8").out
    cli("calibrate", model)
    result = cli("plan", model, "--rows", "8")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("8 rows on gears 1, 4, 8: 2 x 4\n")
    assert " on the clock of the model, NumPy, in memory\n" in result.out
    document = cli("plan", model, "--rows", "8", "--json").json
    assert document["cost"] == pytest.approx(2.4)
    assert (document["cost_unit"], document["error"], document["unsure"], document["runs"], document["actual"]) == (
        ("ms", 0.0, None, 0, None)
    )


@pytest.fixture
def noisy(cli, only, model, tmp_path):
    """A saved calibration with wide intervals."""
    only(Simulated())
    assert cli("calibrate", model, "--output", tmp_path / "noisy.json").code == 0
    times = {1: (1e-3, 0.5e-3), 4: (4.5e-3, 2e-3), 8: (9e-3, 4e-3)}
    found = tuple(Measurement(size, time, time - half, time + half, 20) for size, (time, half) in times.items())
    return replace(Calibration.load(tmp_path / "noisy.json"), measurements=found).save(tmp_path / "noisy.json")


@pytest.mark.parametrize("with_model", [True, False])
def test_plan_with_a_named_calibration_says_how_sure_it_is(cli, model, noisy, with_model):
    where = [model] if with_model else []
    arguments = ["plan", *where, "--calibration", noisy.path, "--rows", "5"]
    result = cli(*arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("5 rows on gears 1, 4, 8: 8 (5 rows)\n")
    assert "\ncost      9 ± 4.1 ms; costs: measured " in result.out
    assert "\nunsure    5 x 1 looks 44.4% cheaper, which the estimates are too unsure to tell\n" in result.out
    document = cli(*arguments, "--json").json
    assert document["error"] == pytest.approx(4 / 1.96)
    assert document["unsure"]["launches"] == [{"gear": 1, "rows": 1}] * 5


def test_plan_for_gears_that_nobody_compiled_says_what_is_estimated(cli, noisy):
    result = cli("plan", "--gears", "4,6,16", "--calibration", noisy.path, "--rows", "6")
    assert result.out.startswith("6 rows on gears 4, 6, 16: 6\n")
    assert "; estimated for [6, 16]\n" in result.out
    assert cli("plan", "--gears", "4,6", "--calibration", noisy.path, "--rows", "6", "--json").json["cost"] == 6.75


def test_plan_by_the_calibration_of_a_session_that_takes_any_number(cli, only, model, tmp_path):
    only(Simulated(AnyBatch()))
    cli("calibrate", model, "--max-rows", "8", "--output", tmp_path / "c.json")
    result = cli("plan", "--calibration", tmp_path / "c.json", "--rows", "7")
    assert result.out.startswith("7 rows on any batch size: 7\n")


def test_calibrations_that_plan_cannot_use(fails, only, model, noisy, tmp_path):
    arguments = ("plan", "--calibration", noisy.path, "--rows", "5")
    assert fails(*arguments, "--gears", "1", "--costs", "1") == "expected --calibration, or costs by other options, got both"
    assert "got both" in fails(*arguments, "--overhead", "1", "--per-row", "1")
    assert "are for opening a MODEL" in fails(*arguments, "--device", "1")
    assert "cannot be read: No such file" in fails("plan", "--calibration", tmp_path / "none", "--rows", "5")
    other = replace(noisy, setting=replace(noisy.setting, batching="9 at once")).save(tmp_path / "other.json")
    assert "is of a session of '9 at once'" in fails("plan", "--calibration", other.path, "--rows", "5")
    assert "is of a session of '9 at once', this is 'gears 1, 4, 8'" in fails(
        "plan", model, "--calibration", other.path, "--rows", "5"
    )


def test_a_stale_calibration_is_a_line_on_stderr(cli, only, model):
    only(Simulated())
    cli("calibrate", model)
    calibration = Calibration.load(kept(model))
    replace(calibration, setting=replace(calibration.setting, anybatch="0.0.1")).save(calibration.path)
    result = cli("plan", model, "--rows", "5", "--json")
    assert result.code == 0
    assert result.json["cost_source"] == "affine prior, nothing measured"
    assert result.err == (
        f"anybatch: warning: not used: the calibration {str(calibration.path)!r} is out of date: "
        f"it was made by anybatch '0.0.1', this is {__version__!r}; make a new one with `anybatch calibrate`\n"
    )


def test_warnings_are_shown_where_opening_fails_too(cli, monkeypatch, model):
    def fail(*_arguments, **_options):
        import warnings

        warnings.warn("it smells", RuntimeWarning, stacklevel=2)
        raise anybatch.ModelError("it smokes")

    monkeypatch.setattr("anybatch._registry.open_model", fail)
    result = cli("plan", model, "--rows", "5")
    assert (result.code, result.err) == (2, "anybatch: warning: it smells\nanybatch: ModelError: it smokes\n")


# --- inspect ---


def test_inspect_says_whether_a_calibration_is_kept_and_fits(cli, only, model):
    only(Simulated())
    assert "\ncalibration: none; anybatch calibrate makes one\n" in cli("inspect", model).out
    assert cli("inspect", model, "--json").json["calibration"] is None
    cli("calibrate", model)
    path = kept(model)
    calibration = Calibration.load(path)
    long_ago = datetime.now(timezone.utc) - timedelta(hours=3, minutes=5)
    replace(calibration, made=long_ago.isoformat(timespec="seconds")).save(path)
    line = f"\ncalibration: measured 3 hours ago on the clock of the model, kept in {path}\n"
    assert line in cli("inspect", model).out
    assert cli("inspect", model, "--json").json["calibration"] == {
        "fits": True,
        "path": str(path),
        "made": long_ago.isoformat(timespec="seconds"),
        "clock": "clock of the model",
        "sizes": [1, 4, 8],
    }
    replace(calibration, setting=replace(calibration.setting, runtime="NumPy 1.0")).save(path)
    result = cli("inspect", model)
    assert (result.code, result.err) == (0, ""), "said once, on stdout"
    why = f"the calibration {str(path)!r} is out of date: it was made with 'NumPy 1.0', this is 'NumPy, in memory'"
    assert f"\ncalibration: not used: {why}; make a new one" in result.out
    document = cli("inspect", model, "--json").json["calibration"]
    assert document["fits"] is False
    assert document["why"].startswith(why)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400 * 40, "40 days ago"),
        (-5, "in the future, by this machine's clock (2026-11-22T10:00:00+00:00)"),
    ],
)
def test_age(seconds, words):
    made = datetime(2026, 11, 22, 10, tzinfo=timezone.utc)
    assert age(made.isoformat(), made + timedelta(seconds=seconds)) == words


# --- bench ---


def test_bench_times_with_the_device_clock_of_a_simulator(cli, only, model):
    only(Simulated(Gears((1, 4, 8))))
    arguments = ("bench", model, "--rows", "1,13", "--iterations", "3")
    result = cli(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "\nSIMULATED: times on the clock of the model; no hardware was measured\n" in result.out
    assert "how long the simulator takes" not in result.out
    document = cli(*arguments, "--json").json
    assert document["clock"] == "clock of the model"
    small, large = document["sizes"]
    assert (small["p50_s"], small["seconds"]) == (pytest.approx(2e-3), pytest.approx(6e-3))
    assert large["p50_s"] == pytest.approx(9e-3 + 5e-3 + 2e-3)
    assert small["rows_per_s"] == pytest.approx(500)


def test_bench_for_some_seconds_of_the_wall_clock(cli, only, model):
    only(Simulated(Gears((1, 4, 8)), lambda _size: 1e-9))  # a second on this clock would take ages
    sizes = cli("bench", model, "--rows", "1", "--seconds", "0.02", "--json").json["sizes"]
    assert sizes[0]["iterations"] > 1
    assert sizes[0]["seconds"] < 0.01


def test_bench_of_a_simulator_without_a_cost_model(fails, only, model):
    only(Simulated(curve=lambda _size: 0.0))
    assert "calls take no time on this clock" in fails("bench", model, "--rows", "1", "--iterations", "2")


def test_bench_says_that_its_clock_is_the_wall(cli, model):
    assert cli("bench", model, "--rows", "1", "--iterations", "1", "--json").json["clock"] == "wall clock"
