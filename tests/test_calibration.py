"""What launches take: measured, kept, found again, trusted or not; and what a runner does with it."""

import itertools
import json
import math
import random
import shutil
import statistics
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import anybatch
from anybatch import (
    AffineCosts,
    AnyBatch,
    Calibration,
    ClosedError,
    CurveCosts,
    DeviceError,
    Gears,
    InputError,
    Launch,
    Measurement,
    ModelError,
    MultipleOf,
    Planner,
    Runner,
    Setting,
)
from anybatch._calibration import machine, measure, sizes_to_measure, summarize
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE

WIDE_OPEN = 0.25  # a tolerance that fake launches meet after few rounds


class Ticks:
    """A clock that stands still until something takes time; as `anybatch.Clock`."""

    name = "ticks"

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(FakeBackend):
    """A fake whose launches take the time that a curve says, on a clock of its own."""

    def __init__(self, batching, curve, **arguments):
        super().__init__(batching, **arguments)
        self.clock = Ticks()
        self.curve = curve

    def _begin(self, launch):
        super()._begin(launch)
        self.clock.now += self.curve(launch.gear)


def linear(size):
    return 1e-3 * (1 + size)


def open_timed(batching=None, curve=linear, model=AFFINE.onnx_bytes, *, backend=None, **options):
    return anybatch.open(model, backend=backend or Timed(batching or Gears((1, 4, 8)), curve), **options)


def request(rows):
    return AFFINE.random_inputs(np.random.default_rng(0), rows)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models" / "affine.onnx"
    path.parent.mkdir()
    path.write_bytes(AFFINE.onnx_bytes)
    return path


def calibration_of(times=None, **setting):
    """A calibration as `calibrate` makes it, of the runner that `open_timed` opens."""
    described = {
        "model": anybatch.model_digest(AFFINE.onnx_bytes),
        "backend": "fake",
        "device": 0,
        "batching": "gears 1, 4, 8",
        "options": {},
        "runtime": "NumPy, in memory",
        "anybatch": anybatch._calibration.__version__,
        "clock": "ticks",
        "machine": "",
    }
    found = [Measurement(size, time, time, time, 6) for size, time in (times or {1: 2e-3, 4: 5e-3, 8: 9e-3}).items()]
    return Calibration(tuple(found), Setting(**described | setting), "2026-11-22T10:00:00+00:00", 1.5, 0.02)


# --- the median and its interval ---


@pytest.mark.parametrize("count", [6, 7, 8, 11, 16, 21, 30, 100])
def test_the_interval_holds_the_median_in_95_percent_of_cases(count):
    generator = np.random.default_rng(count)
    # Skewed as times of launches are: most near the least, some far above. Its median is exp(0) = 1.
    samples = np.sort(generator.lognormal(0.0, 0.5, (4000, count)), axis=1)
    found = [summarize(1, list(times)) for times in samples]
    inside = sum(each.low_s <= 1 <= each.high_s for each in found) / len(found)
    assert inside >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / len(found))
    assert inside <= 0.995, "an interval that always holds it is wider than it has to be"


def test_the_interval_is_never_of_less_than_95_percent():
    for count in range(6, 400):
        low = summarize(1, range(count)).low_s
        assert 1 - 2 * sum(math.comb(count, k) for k in range(low + 1)) / 2**count >= 0.95, count


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_of_few_launches_shortest_and_longest_are_the_interval(count):
    times = [3.0, 4.0, 5.0, 6.0, 70.0][:count]
    assert summarize(8, times) == Measurement(8, statistics.median(times), times[0], times[-1], count)


def test_outliers_do_not_count():
    times = sorted([1.0 + 0.001 * each for each in range(36)] + [1000.0] * 4)
    found = summarize(1, times)
    assert found.high_s < 1.04
    assert found.median_s == pytest.approx(statistics.median(times[:36]), rel=0.01)


def test_few_launches_are_never_sure():
    assert not Measurement(1, 1.0, 1.0, 1.0, 5).is_tight(0.5)
    assert Measurement(1, 2.0, 1.5, 2.5, 6).is_tight(0.25)
    assert not Measurement(1, 2.0, 1.25, 2.5, 6).is_tight(0.25)


@pytest.mark.parametrize(
    ("low", "high", "launches", "machine", "error"),
    [
        (0.902, 1.098, 40, "cpu", 0.05),  # the interval, of 1.96 standard errors
        (0.999, 1.001, 40, "cpu", 0.01),  # on a wall clock nothing is surer than 1 %
        (1.0, 1.0, 40, "cpu", 0.01),
        (0.999, 1.001, 3, "cpu", 0.05),  # nor than 5 % of few launches
        (0.9, 1.1, 3, "cpu", 0.2),
        (1.0, 1.0, 40, "", 0.0),  # a device clock has no such error
        (1.0 - 1e-15, 1.0 + 1e-15, 40, "", 0.0),
        (0.9, 1.1, 3, "", 0.2),
    ],
)
def test_how_sure_costs_are(low, high, launches, machine, error):
    calibration = replace(calibration_of(machine=machine), measurements=(Measurement(2, 1.0, low, high, launches),))
    costs = calibration.costs()
    assert (costs.of(2), costs.unit) == (1000.0, "ms")
    assert costs.error_of(2) == pytest.approx(1000 * error)


def test_costs_say_where_they_come_from():
    assert calibration_of().costs().source == "measured 2026-11-22 10:00 UTC on the ticks, NumPy, in memory"


# --- which sizes ---


@pytest.mark.parametrize(
    ("batching", "max_rows", "sizes"),
    [
        (Gears((2, 6, 128)), 1, [2, 6, 128]),
        (MultipleOf(16), 64, [16, 32, 64]),
        (MultipleOf(16), 100, [16, 32, 64, 96]),
        (MultipleOf(16), 3, [16]),
        (AnyBatch(), 1, [1]),
        (AnyBatch(), 2, [1, 2]),
        (AnyBatch(), 3, [1, 2, 3]),
        (AnyBatch(), 11, [1, 2, 3, 4, 6, 8, 11]),
        (AnyBatch(), 16, [1, 2, 3, 4, 6, 8, 12, 16]),
    ],
)
def test_sizes_to_measure(batching, max_rows, sizes):
    assert sizes_to_measure(batching, max_rows) == sizes
    assert all(batching.takes(size) for size in sizes)


def test_no_rows_cannot_be_measured():
    with pytest.raises(InputError, match="expected max_rows >= 1, got 0"):
        sizes_to_measure(AnyBatch(), 0)


# --- rounds ---


class Bench:
    """Launches that take what `cost(size, size of the launch before)` says."""

    def __init__(self, cost):
        self.now = 0.0
        self.launched = []
        self._cost = cost

    def clock(self):
        return self.now

    def launch(self, size):
        self.now += self._cost(size, self.launched[-1] if self.launched else None)
        self.launched.append(size)

    def measure(self, sizes, *, seconds=1e9, tolerance=WIDE_OPEN, refine=False, **arguments):
        return measure(
            self.launch,
            sizes,
            clock=self.clock,
            seconds=seconds,
            tolerance=tolerance,
            refine=refine,
            wall=self.clock,
            **{"progress": lambda _share: None} | arguments,
        )


def test_sizes_take_turns_in_changing_order():
    bench = Bench(lambda size, _before: 1.0)
    bench.measure([1, 2, 4, 8])
    turns = [tuple(bench.launched[start : start + 4]) for start in range(0, len(bench.launched), 4)]
    assert len(turns) == 3 + 6, "three to warm up, six that count"
    assert all(sorted(turn) == [1, 2, 4, 8] for turn in turns)
    assert len(set(turns[3:])) > 3


def test_a_launch_that_is_fast_only_after_its_like_is_seen_as_it_is_among_others():
    # What a loop over each size would measure is 1 for every size.
    bench = Bench(lambda size, before: 1.0 if size == before else 2.0 + size)
    found = bench.measure([1, 4, 8])
    assert [each.median_s for each in found] == [3.0, 6.0, 10.0]


def test_launches_before_the_others_do_not_count():
    times = itertools.chain([500.0, 400.0, 300.0], itertools.repeat(1.0))
    (found,) = Bench(lambda _size, _before: next(times)).measure([3])
    assert (found.median_s, found.high_s, found.launches) == (1.0, 1.0, 6)


def test_measuring_goes_on_until_all_medians_are_sure():
    generator = random.Random(0)
    bench = Bench(lambda size, _before: size * generator.lognormvariate(0, 0.2 if size == 4 else 0.001))
    quiet, noisy = bench.measure([1, 4], tolerance=0.02)
    assert quiet.launches == noisy.launches > 100
    assert noisy.is_tight(0.02)
    assert not noisy.is_tight(0.015), "and no longer"
    assert noisy.median_s == pytest.approx(4, rel=0.05)


def test_measuring_ends_when_the_time_is_spent():
    generator = random.Random(0)
    bench = Bench(lambda _size, _before: generator.lognormvariate(0, 1))
    found = bench.measure([1, 2], seconds=100, tolerance=1e-9)
    assert 100 <= bench.now < 120
    assert not any(each.is_tight(1e-9) for each in found)


def test_a_share_of_the_time_is_spent_however_sure_all_medians_are():
    # The machine is busy for the first 60 seconds.
    bench = Bench(lambda _size, _before: 3.0 if bench.now < 60 else 1.0)
    assert bench.measure([1], seconds=1000)[0].median_s == 3.0
    bench = Bench(lambda _size, _before: 3.0 if bench.now < 60 else 1.0)
    assert bench.measure([1], seconds=1000, at_least=0.1)[0].median_s == 1.0
    assert bench.now == 100


def test_a_runner_takes_its_share_of_the_time_on_a_wall_clock_only(monkeypatch):
    shares = []

    def spy(*arguments, at_least, **named):
        shares.append(at_least)
        return measure(*arguments, **named)

    monkeypatch.setattr("anybatch._runner.measure", spy)
    for backend in (FakeBackend(), Timed(Gears((1,)), linear)):
        with anybatch.open(AFFINE.onnx_bytes, backend=backend) as runner:
            runner.calibrate(seconds=0.01, save=False)
    assert shares == [0.1, 0.0]


@pytest.mark.parametrize("refine", [False, True])
def test_however_long_launches_take_one_warms_up_and_three_count(refine):
    bench = Bench(lambda size, _before: 1000.0 * size)
    found = bench.measure([1, 2], seconds=1, refine=refine)
    assert [each.launches for each in found] == [3, 3]
    assert len(bench.launched) == 8
    assert not found[0].is_tight(0.5)


def test_progress_rises_to_one():
    shares = []
    Bench(lambda _size, _before: 1.0).measure([1, 2], seconds=1000, progress=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1.0
    assert all(share <= 1 for share in shares)
    late = []
    Bench(lambda _size, _before: 1.0).measure([1, 2], seconds=1, progress=late.append)
    assert set(late) == {1.0}


@pytest.mark.parametrize(
    ("seconds", "tolerance"),
    [(0, 0.1), (-1, 0.1), (math.nan, 0.1), (math.inf, 0.1), (1, 0), (1, -1), (1, math.nan), (1, math.inf)],
)
def test_seconds_and_tolerance_that_mean_nothing(seconds, tolerance):
    bench = Bench(lambda _size, _before: 1.0)
    with pytest.raises(InputError, match=f"expected seconds > 0 and tolerance > 0, both finite, got {seconds} and {tolerance}"):
        bench.measure([1], seconds=seconds, tolerance=tolerance)
    assert not bench.launched


def test_launches_that_take_no_time():
    with pytest.raises(InputError, match="launches take no time on this clock, .*: give a simulator a cost model"):
        Bench(lambda _size, _before: 0.0).measure([1, 2])


# --- cliffs ---


def cliff_at(size):
    """One row more than `size` makes a launch three times as long."""
    return lambda rows: 1e-3 * (10 + rows) * (3 if rows > size else 1)


@pytest.mark.parametrize("size", [5, 9, 23, 40, 50])
def test_a_cliff_is_found_and_requests_are_split_there(size):
    with open_timed(AnyBatch(), cliff_at(size)) as runner:
        calibration = runner.calibrate(save=False)
        measured = [each.size for each in calibration.measurements]
        assert {size, size + 1} <= set(measured), "to the row"
        assert runner.plan(size).launches == (Launch(size, size),)
        assert runner.plan(size + 1).launches != (Launch(size + 1, size + 1),)
        for rows in range(1, 129):
            assert max(launch.gear for launch in runner.plan(rows).launches) <= size
            assert np.array_equal(runner.run(request(rows))["y"], AFFINE.reference(request(rows))["y"])


def test_a_smooth_curve_is_not_refined_and_not_split():
    with open_timed(AnyBatch(), lambda rows: 1e-3 * (10 + rows)) as runner:
        calibration = runner.calibrate(save=False, max_rows=32)
        assert [each.size for each in calibration.measurements] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
        assert runner.plan(100).launches == (Launch(100, 100),)


def test_gears_are_measured_as_they_are_however_steep():
    with open_timed(Gears((1, 16)), cliff_at(3)) as runner:
        assert [each.size for each in runner.calibrate(save=False).measurements] == [1, 16]


def test_looking_for_cliffs_takes_half_the_time_at_most():
    # A row gets dearer everywhere, so there is always something to look for.
    bench = Bench(lambda size, _before: size**3)
    found = bench.measure([1, 32], seconds=2e6, tolerance=1e-9, refine=True)
    assert 2 < len(found) < 32
    assert len(Bench(lambda size, _before: size**3).measure([1, 32], refine=True)) == 32


# --- saved and loaded ---


def test_a_calibration_survives_the_file(tmp_path):
    calibration = calibration_of(options={"threads": "4"}, machine="a processor, 2 cores")
    saved = calibration.save(tmp_path / "c.json")
    assert saved == replace(calibration, path=tmp_path / "c.json")
    assert Calibration.load(str(tmp_path / "c.json")) == saved
    assert saved.costs() == calibration.costs()


def test_saving_replaces_what_is_there_and_leaves_nothing_beside(tmp_path):
    calibration_of({1: 1.0}).save(tmp_path / "c.json")
    calibration_of({2: 1.0}).save(tmp_path / "c.json")
    assert [each.size for each in Calibration.load(tmp_path / "c.json").measurements] == [2]
    assert names(tmp_path) == ["c.json"]
    assert (tmp_path / "c.json").stat().st_mode & 0o777 == 0o644


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    saved = calibration_of({1: 1.0}).save(tmp_path / "c.json")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"cannot be written to '.*c.json': No space left on device"):
        calibration_of({2: 1.0}).save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == saved
    assert names(tmp_path) == ["c.json"]


@pytest.mark.parametrize(("name", "why"), [("none/c.json", "No such file or directory"), ("", "Is a directory")])
def test_places_where_nothing_can_be_saved(tmp_path, name, why):
    with pytest.raises(InputError, match=f"the calibration cannot be written to .*: {why}"):
        calibration_of().save(tmp_path / name)
    assert not names(tmp_path)


def written(path, change):
    """Write a good calibration's file, with a change made to its document."""
    document = {"schema": 1} | asdict(calibration_of())
    del document["path"]
    change(document)
    path.write_text(json.dumps(document))
    return path


def set_time(name, value):
    return lambda document: document["measurements"][1].update({name: value})


BAD_DOCUMENTS = {
    "schema": (lambda d: d.update(schema=2), "expected schema 1, got 2"),
    "no schema": (lambda d: d.pop("schema"), "'schema' is missing"),
    "no measurements": (lambda d: d.pop("measurements"), "'measurements' is missing"),
    "empty": (lambda d: d.update(measurements=[]), "it holds no measurement"),
    "not a list": (lambda d: d.update(measurements=3), "'int' object is not iterable"),
    "zero": (
        set_time("median_s", 0),
        "expected times above 0, low_s <= median_s <= high_s, got Measurement(size=4, median_s=0,",
    ),
    "negative": (set_time("low_s", -1.0), "expected times above 0"),
    "NaN": (set_time("median_s", math.nan), "expected times above 0"),
    "infinite": (set_time("high_s", math.inf), "expected times above 0"),
    "huge": (set_time("high_s", 10**400), "int too large to convert to float"),
    "text": (set_time("median_s", "1"), "expected times above 0"),
    "true": (set_time("median_s", True), "expected times above 0"),
    "median outside": (set_time("high_s", 1e-9), "low_s <= median_s <= high_s"),
    "half a row": (set_time("size", 4.5), "expected times above 0"),
    "no launches": (set_time("launches", 0), "expected times above 0"),
    "unordered": (lambda d: d.update(measurements=d["measurements"][::-1]), "expected ascending sizes, got [8, 4, 1]"),
    "twice": (set_time("size", 8), "expected ascending sizes, got [1, 8, 8]"),
    "unknown field": (set_time("mean_s", 1), "unexpected keyword argument 'mean_s'"),
    "missing field": (lambda d: d["measurements"][0].pop("low_s"), "missing 1 required positional argument: 'low_s'"),
    "no setting": (lambda d: d.pop("setting"), "'setting' is missing"),
    "model": (lambda d: d["setting"].update(model=3), "expected model to be a text, got 3"),
    "clock": (lambda d: d["setting"].update(clock=None), "expected clock to be a text, got None"),
    "device": (lambda d: d["setting"].update(device="0"), "expected device to be an index, got '0'"),
    "options": (lambda d: d["setting"].update(options=[]), "expected options to be an object, got []"),
    "made": (lambda d: d.update(made="yesterday"), "Invalid isoformat string: 'yesterday'"),
    "made nowhere": (lambda d: d.update(made="2026-11-22T10:00:00"), "expected made to be a time with its zone"),
    "made of nothing": (lambda d: d.update(made=None), "fromisoformat: argument must be str"),
    "seconds": (lambda d: d.update(seconds=math.nan), "expected seconds >= 0 and tolerance > 0, both finite, got nan and 0.02"),
    "tolerance": (lambda d: d.update(tolerance=0), "got 1.5 and 0.0"),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_documents_that_are_no_calibration(tmp_path, name):
    change, why = BAD_DOCUMENTS[name]
    path = written(tmp_path / "c.json", change)
    with pytest.raises(InputError) as caught:
        Calibration.load(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} is no calibration: ")
    assert why in message
    assert message.endswith("; make one with `anybatch calibrate`")


def test_a_good_document_is_one(tmp_path):
    assert Calibration.load(written(tmp_path / "c.json", lambda _document: None)).measurements == calibration_of().measurements


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b'{"schema": 1, "measurements": [', "Expecting value"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "expected an object, got list"),
        (b"3", "expected an object, got int"),
    ],
)
def test_files_that_are_no_calibration(tmp_path, content, why):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{str(path)!r} is no calibration: .*{why}"):
        Calibration.load(path)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"the calibration {str(tmp_path)!r} cannot be read: Is a directory"):
        Calibration.load(tmp_path)
    with pytest.raises(InputError, match="the calibration 'none' cannot be read: No such file or directory"):
        Calibration.load("none")
    saved = calibration_of().save(tmp_path / "c.json")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match="c.json' cannot be read: Permission denied"):
        Calibration.load(saved.path)


@pytest.mark.parametrize("batching", [Gears((1, 4, 8)), AnyBatch(), MultipleOf(1)])
def test_a_calibration_knows_what_the_launches_were(batching):
    assert calibration_of(batching=str(batching)).batching == batching


def test_words_for_launches_that_nobody_knows():
    with pytest.raises(InputError, match=r"is of a session of 'gears 1, 2', but measured the sizes \[1, 4, 8\]"):
        _ = calibration_of(batching="gears 1, 2").batching


# --- kept and found ---


def test_calibrating_is_kept_beside_the_model_and_found(model):
    with open_timed(model=model) as runner:
        assert (runner.calibration, runner.kept_calibration()) == (None, None)
        calibration = runner.calibrate()
        assert runner.calibration is calibration
        assert calibration.path.parent == model.parent
    assert [path.name for path in model.parent.glob("*.costs.json")] == [calibration.path.name]
    with open_timed(model=model) as runner:
        assert runner.calibration == runner.kept_calibration() == calibration
        assert "measured" in runner.explain(5).cost_source
    assert calibration.setting == calibration_of(model=anybatch.model_digest(model)).setting


@pytest.mark.parametrize("source", [AFFINE.onnx_bytes, onnx.load_from_string(AFFINE.onnx_bytes)], ids=["bytes", "proto"])
def test_models_without_a_file_have_theirs_in_the_cache(cache, source):
    with open_timed(model=source) as runner:
        calibration = runner.calibrate()
    assert calibration.path.parent == cache / "costs"
    with open_timed(model=source) as runner:
        assert runner.calibration == calibration


@pytest.fixture
def read_only(monkeypatch):
    """A function that makes a folder refuse new files; modes do not stop root, who may run this."""

    def protect(folder):
        from anybatch import _calibration

        make = _calibration.tempfile.NamedTemporaryFile

        def refuse(*arguments, **named):
            if Path(named["dir"]) == folder:
                raise PermissionError(13, "Permission denied")
            return make(*arguments, **named)

        monkeypatch.setattr(_calibration.tempfile, "NamedTemporaryFile", refuse)

    return protect


def test_a_model_in_a_folder_for_reading_has_its_in_the_cache(cache, model, read_only):
    read_only(model.parent)
    with open_timed(model=model) as runner:
        calibration = runner.calibrate()
    assert calibration.path.parent == cache / "costs"
    with open_timed(model=model) as runner:
        assert runner.calibration == calibration


def test_a_misfit_beside_the_model_hides_no_fitting_one_in_the_cache(model, read_only):
    with open_timed(model=model) as runner:
        beside = runner.calibrate().path
        replace(runner.calibration, setting=replace(runner.calibration.setting, anybatch="0.0.1")).save(beside)
        read_only(model.parent)
        kept = runner.calibrate()
    with open_timed(model=model) as runner:
        assert runner.calibration == kept


def test_nowhere_to_keep_it(cache, read_only):
    cache.write_text("a file, no folder")
    with open_timed() as runner:
        with pytest.raises(InputError, match="the calibration cannot be kept: .*; name a file to save it in"):
            runner.calibrate()
        assert runner.calibration.path is None
        assert "measured" in runner.explain(5).cost_source, "what was measured is used nonetheless"


def test_without_a_home_folder_nothing_is_found_and_nothing_fails(monkeypatch, model):
    monkeypatch.delenv("ANYBATCH_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with open_timed(model=model) as runner:
        assert runner.calibration is None
    with open_timed() as runner, pytest.raises(InputError, match="there is no home folder"):
        runner.calibrate()


def test_a_model_with_a_very_long_name(cache, model):
    model = model.rename(model.with_name("m" * 245 + ".onnx"))
    for calibration in (None, "kept"):
        with open_timed(model=model) as runner:
            assert (runner.calibration is None) == (calibration is None)
            assert runner.calibrate().path.parent == cache / "costs"


@pytest.mark.parametrize("save", [False, "elsewhere.json"])
def test_saved_nowhere_or_elsewhere_is_not_found(model, tmp_path, save):
    with open_timed(model=model) as runner:
        calibration = runner.calibrate(save=save and tmp_path / save)
        assert runner.calibration == calibration
    assert calibration.path == ((save and tmp_path / save) or None)
    with open_timed(model=model) as runner:
        assert runner.calibration is None


def test_other_gears_and_options_have_their_own(model):
    with open_timed(model=model) as runner:
        runner.calibrate()
    with open_timed(model=model, batch_sizes=[1, 4]) as runner:
        assert runner.calibration is None
        runner.calibrate()
    assert len(list(model.parent.glob("*.costs.json"))) == 2


STALE = {
    "model": "is of another model;",
    "backend": "is of backend 'other', this is 'fake';",
    "batching": "is of a session of 'other', this is 'gears 1, 4, 8';",
    "device": "is of device 7, this is 0;",
    "options": "was made with the options {'a': '1'}, this is {};",
    "clock": "was timed on the 'other', this is 'ticks';",
    "machine": "was made on another machine, 'other', this is '';",
    "runtime": "is out of date: it was made with 'other', this is 'NumPy, in memory';",
    "anybatch": "is out of date: it was made by anybatch 'other', this is ",
}


@pytest.mark.parametrize("field", STALE)
def test_a_stale_calibration_is_refused_when_given_and_warned_about_when_found(model, tmp_path, field):
    other = {"device": 7, "options": {"a": "1"}}.get(field, "other")
    stale = calibration_of(**{"model": anybatch.model_digest(model), field: other})
    given = stale.save(tmp_path / "given.json")
    for costs in (stale, given, given.path, str(given.path)):
        backend = Timed(Gears((1, 4, 8)), linear)
        with pytest.raises(InputError) as caught:
            open_timed(model=model, backend=backend, costs=costs)
        assert STALE[field] in str(caught.value)
        assert str(caught.value).endswith("; make a new one with `anybatch calibrate`")
        assert (str(given.path) in str(caught.value)) == (costs is not stale)
        assert backend.alive == 0
    with open_timed(model=model) as runner:
        stale.save(runner.calibrate().path)
    with pytest.warns(RuntimeWarning) as warned:
        runner = open_timed(model=model)
    with runner:
        assert runner.calibration is None
        assert runner.explain(5).cost_source == AffineCosts().source
        with pytest.raises(InputError) as caught:
            runner.kept_calibration()
    assert str(warned[0].message) == f"not used: {caught.value}"
    assert STALE[field] in str(caught.value)
    assert len(warned) == 1
    assert warned[0].filename.endswith("_registry.py") or warned[0].filename == __file__


def test_the_warning_points_at_the_callers_line(model):
    with open_timed(model=model) as runner:
        runner.calibrate().path.write_text("{")
    with pytest.warns(RuntimeWarning, match="not used: .* is no calibration: ") as warned:
        anybatch.open(model, backend=Timed(Gears((1, 4, 8)), linear)).close()
    assert warned[0].filename == __file__


def test_a_model_whose_content_changed_has_none(model):
    with open_timed(model=model) as runner:
        runner.calibrate()
    content = onnx.load_from_string(AFFINE.onnx_bytes)
    content.doc_string = "trained again"
    model.write_bytes(content.SerializeToString())
    with pytest.warns(RuntimeWarning, match="is of another model"):
        open_timed(model=model).close()


def test_a_model_that_was_replaced_since_it_was_opened_gets_no_figures_of_the_old_one(model):
    with open_timed(model=model) as runner:
        shutil.copy(model, model.with_suffix(".new"))
        model.with_suffix(".new").replace(model)
        with pytest.raises(ModelError, match=f"{str(model)!r} was changed since it was opened: open it again"):
            runner.calibrate()
        model.unlink()
        with pytest.raises(ModelError, match=f"{str(model)!r} cannot be read: No such file or directory"):
            runner.calibrate()
        assert runner.calibration is None


def test_a_calibration_that_fits_is_taken_when_given(model, tmp_path):
    given = calibration_of(model=anybatch.model_digest(model)).save(tmp_path / "given.json")
    for costs in (given, given.path, str(given.path), replace(given, path=None)):
        with open_timed(model=model, costs=costs) as runner:
            assert runner.calibration.measurements == given.measurements


def test_opening_without_a_calibration_neither_reads_the_model_nor_warns(model, monkeypatch):
    monkeypatch.setattr("anybatch._calibration.model_digest", lambda _model: pytest.fail("costs time"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_timed(model=model).close()


def test_models_that_are_compiled_already_have_a_digest_too(tmp_path, monkeypatch):
    model = tmp_path / "compiled.bin"
    model.write_bytes(b"compiled")
    backend = Timed(Gears((1, 4, 8)), linear)
    backend._find = lambda _model: AFFINE
    for found in (False, True):
        with anybatch.open(model, backend=backend, safety="off") as runner:
            assert (runner.calibration is not None) == found
            runner.calibrate()
    model.write_bytes(b"compiled again")
    with pytest.warns(RuntimeWarning, match="is of another model"):
        anybatch.open(model, backend=backend, safety="off").close()


def test_the_machine_has_a_name():
    name = machine()
    assert name.endswith(" cores")
    assert not name.startswith(",")


def test_a_wall_clock_is_of_this_machine(model):
    with anybatch.open(model, backend=FakeBackend()) as runner:
        calibration = runner.calibrate(seconds=0.01)
        assert runner.clock is None
    assert (calibration.setting.clock, calibration.setting.machine) == ("wall clock", machine())


# --- the runner ---


def test_plans_are_made_anew_with_what_was_measured():
    # The prior runs 5 rows as 4 + 1; here a launch costs the same whatever its size.
    with open_timed(curve=lambda _size: 1e-3) as runner:
        assert str(runner.plan(5)) == "4 + 1"
        runner.run(request(5))
        runner.calibrate(save=False)
        assert str(runner.plan(5)) == "8 (5 rows)"
        assert np.array_equal(runner.run(request(5))["y"], AFFINE.reference(request(5))["y"])
        assert runner.stats().requests == 2
        assert dict(runner.stats().launches) == {1: 1, 4: 1, 8: 1}, "what calibrating launched was no request"


def test_a_runner_without_a_file_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend = Timed(Gears((1, 4)), linear)
    session = backend.open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    with Runner(session, backend="mine", clock=backend.clock) as runner:
        calibration = runner.calibrate()
        assert calibration.path is None
        assert runner.kept_calibration() is None
        assert calibration.setting.backend == calibration.setting.runtime == "mine"
        assert calibration.setting.model == ""
        assert runner.calibrate(save=tmp_path / "c.json").path == tmp_path / "c.json"
    assert names(tmp_path) == ["c.json"]


def test_the_rows_of_the_caller_are_measured_with():
    seen = []
    with open_timed(Gears((1, 4))) as runner:
        execute = runner._session.execute
        runner._session.execute = lambda inputs, *rest: (seen.append(inputs["x"].copy()), execute(inputs, *rest))[1]
        inputs = request(3)
        runner.calibrate(save=False, inputs=inputs)
    for array in seen:
        assert np.array_equal(array, np.concatenate([inputs["x"], inputs["x"]])[: len(array)])
    assert {len(array) for array in seen} == {1, 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "expected seconds > 0 and tolerance > 0, both finite, got 0 and 0.02"),
        ({"tolerance": -1.0}, "expected seconds > 0 and tolerance > 0"),
        ({"max_rows": 0}, "expected max_rows >= 1, got 0"),
        ({"inputs": {"x": np.zeros((2, 1), np.float32)}}, "'x': expected float32"),
        ({"inputs": {}}, "x"),
    ],
)
def test_calibrations_that_do_not_fit(arguments, message):
    with open_timed(AnyBatch()) as runner:
        with pytest.raises(InputError, match=message):
            runner.calibrate(save=False, **arguments)
        assert runner.calibration is None
        assert runner.plan(5).cost == AffineCosts().of(5)


def test_rows_to_measure_with_have_to_be_some():
    with open_timed() as runner, pytest.raises(InputError, match="expected at least one row to measure with"):
        runner.calibrate(save=False, inputs=request(0))


def test_a_closed_runner_measures_nothing():
    runner = open_timed()
    runner.close()
    with pytest.raises(ClosedError, match=r"calibrate\(\) after close\(\)"):
        runner.calibrate()


def test_closing_waits_for_calibrating_and_the_count_of_calls_is_right():
    with open_timed() as runner:
        runner.calibrate(save=False)
        with pytest.raises(InputError):
            runner.calibrate(seconds=-1)
        assert not runner._in_progress


def test_free_dimensions_need_rows_to_measure_with(tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> free (float[rows, seq] x) => (float[rows, seq] y) { y = Neg(x) }'
    with anybatch.open(onnx.parser.parse_model(text)) as runner:
        with pytest.raises(
            InputError, match=r"leaves dimensions free, \['seq'\]: hand over rows to measure with, calibrate\(inputs=...\)"
        ):
            runner.calibrate()
        found = runner.calibrate(save=False, seconds=0.01, max_rows=2, inputs={"x": np.zeros((1, 7), np.float32)})
        assert [each.size for each in found.measurements][:2] == [1, 2]


def test_a_simulator_without_a_cost_model():
    with open_timed(curve=lambda _size: 0.0) as runner:
        with pytest.raises(InputError, match="launches take no time on this clock"):
            runner.calibrate()
        assert runner.calibration is None
        assert runner.explain(5).cost_source == AffineCosts().source


def test_a_device_error_in_the_middle_keeps_the_costs(model):
    backend = Timed(Gears((1, 4, 8)), linear)
    with open_timed(model=model, backend=backend) as runner:
        before = runner.calibrate()
        backend.faults["execute", backend.calls["execute"] + 13] = DeviceError("lost", backend="fake", operation="execute")
        with pytest.raises(DeviceError, match="lost"):
            runner.calibrate()
        assert runner.calibration == runner.kept_calibration() == before
        assert runner.explain(5).plan.cost == before.costs().of(8) or "measured" in runner.explain(5).cost_source
        assert runner.run(request(5))["y"].shape[0] == 5


def test_calibrating_twice_replaces_the_first(model):
    backend = Timed(Gears((1, 4, 8)), linear)
    with open_timed(model=model, backend=backend) as runner:
        first = runner.calibrate()
        backend.curve = lambda size: 2 * linear(size)
        second = runner.calibrate()
        assert second.path == first.path
        assert runner.explain(8).plan.cost == pytest.approx(2 * 9.0)
        assert Calibration.load(first.path) == second


def test_multiples_are_measured_and_their_cost_is_told():
    with open_timed(MultipleOf(16), lambda size: 1e-3 * size) as runner:
        calibration = runner.calibrate(save=False)
        assert [each.size for each in calibration.measurements] == [16, 32, 64]
        assert runner.explain(20).plan.cost == pytest.approx(32.0)


# --- after runs ---


def test_stats_count_requests_by_their_rows():
    with open_timed() as runner:
        for rows in (5, 1, 5, 9, 0):
            runner.run(request(rows))
        runner.calibrate(save=False)  # plans are dropped, counts are not
        runner.run(request(5))
        stats = runner.stats()
    assert dict(stats.sizes) == {0: 1, 1: 1, 5: 3, 9: 1}
    assert list(stats.sizes) == [0, 1, 5, 9]
    assert sum(stats.sizes.values()) == stats.requests == 6
    assert sum(rows * count for rows, count in stats.sizes.items()) == stats.rows


def test_failed_requests_are_in_no_count():
    backend = Timed(Gears((1, 4, 8)), linear)
    with open_timed(backend=backend) as runner:
        backend.faults["execute", 1] = DeviceError("lost", backend="fake", operation="execute")
        with pytest.raises(DeviceError):
            runner.run(request(5))
        assert runner.stats().sizes == {}
        assert runner.explain(5).runs == 0


def test_explain_sets_what_ran_beside_what_was_predicted():
    backend = Timed(Gears((1, 4, 8)), linear)
    with open_timed(backend=backend, adapt=False) as runner:
        runner.calibrate(save=False)
        assert (runner.explain(8).runs, runner.explain(8).actual) == (0, None)
        for factor in (1.0, 1.5, 100.0):
            backend.curve = lambda size, factor=factor: factor * linear(size)
            runner.run(request(8))
        explanation = runner.explain(8)
        assert explanation.plan.cost == pytest.approx(9.0)
        assert explanation.runs == 3
        assert explanation.actual == pytest.approx(13.5), "the median: one outlier does not count"
        assert "  actual 13.5 ms, median of 3 runs (+50%)" in str(explanation)


@pytest.mark.parametrize(("unit", "actual"), [("s", 9e-3), ("ms", 9.0), ("us", 9e3), ("", None), ("joule", None)])
def test_what_ran_is_told_in_the_unit_of_the_costs_where_that_is_a_time(unit, actual):
    with open_timed(costs=CurveCosts({8: 1.0}, unit=unit)) as runner:
        runner.run(request(8))
        explanation = runner.explain(8)
    assert explanation.actual == (actual and pytest.approx(actual))
    assert explanation.runs == (0 if actual is None else 1)


def test_explain_names_a_plan_that_is_not_sure_enough():
    noisy = {1: (1e-3, 0.5e-3), 4: (4.5e-3, 2e-3), 8: (9e-3, 4e-3)}
    found = tuple(Measurement(size, time, time - half, time + half, 20) for size, (time, half) in noisy.items())
    calibration = replace(calibration_of(), measurements=found)
    with open_timed(costs=calibration) as runner:
        explanation = runner.explain(5)
    assert str(explanation.plan) == "8 (5 rows)"
    assert str(explanation.unsure) == "5 x 1"
    assert explanation.error > 0
    assert "5 x 1 looks 44.4% cheaper, which the estimates are too unsure to tell" in str(explanation)
    assert Planner(Gears((1, 4, 8)), calibration.costs()).cheapest(5) == explanation.unsure
