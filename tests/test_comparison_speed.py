"""Speed of entries: who is timed when and on which clock, what comes of failures, intervals, and who is called faster."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from anybatch import DeviceError, Gears, InputError, MultipleOf
from anybatch.comparison._entries import Contestant, Entry
from anybatch.comparison._results import Interval, SizeSpeed, Speed, StreamSpeed
from anybatch.comparison._speed import _summarise, measure_speeds, ranking
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, BY_DTYPE, SCALAR, SUMMED

ROWS = AFFINE.random_inputs(np.random.default_rng(0), 20)
GEARS = Gears((1, 4, 8))


class Time:
    """A wall clock that moves when a device works on it, and by a microsecond when it is looked at."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1e-6
        return self.now


class DeviceClock:
    """A simulator's clock: stands still but for its own launches."""

    name = "device clock of a fake"

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Device(FakeBackend):
    """A backend whose launches take `fixed + per_row * gear` seconds on a clock; `log` says who launched what, in order."""

    def __init__(self, name, time, log, *, fixed=0.01, per_row=0.001, clock=None, batching=GEARS, **arguments):
        super().__init__(batching, **arguments)
        self.name = name
        self.clock = clock
        self.time = time
        self.log = log
        self.fixed, self.per_row = fixed, per_row

    def _begin(self, launch):
        self.log.append((self.name, launch.gear))
        seconds = self.fixed + self.per_row * launch.gear
        self.time.now += seconds
        if self.clock is not None:
            self.clock.now += seconds / 1000
        super()._begin(launch)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def log():
    return []


@pytest.fixture
def contestants(time):
    opened = []

    def open_(*backends, model=AFFINE, **options):
        opened.extend(Contestant(Entry(backend, options=options), model.onnx_bytes, wall=time) for backend in backends)
        for contestant in opened:
            if contestant.runner is None:
                contestant.open()
                assert not contestant.failures
        return opened

    yield open_
    for contestant in opened:
        contestant.close()


def measure(contestants, sizes, time, *, inputs=ROWS, **arguments):
    return measure_speeds(contestants, sizes, inputs, wall=time, clock=time, **arguments)


def test_figures_by_hand(contestants, time, log):
    (speed,) = measure(contestants(Device("cpu", time, log)), [9, 3, 8], time, seconds=5)
    assert (speed.entry, speed.provenance, speed.clock, speed.stream) == ("cpu", "measured", "wall clock", None)
    assert [size.rows for size in speed.sizes] == [3, 8, 9]
    three, eight, nine = speed.sizes
    # 3 rows on gear 4: one launch of 0.014 s, a quarter of it padding; 9 rows: 8 and 1.
    assert str(three.plan) == "4 (3 rows)"
    assert three.p50.value == pytest.approx(0.014, rel=1e-3)
    assert three.mean.value == pytest.approx(0.014, rel=1e-3)
    assert three.padding_s == pytest.approx(0.014 / 4, rel=1e-3)
    assert three.rows_per_s.value == pytest.approx(3 / 0.014, rel=1e-3)
    assert (eight.padding_s, nine.padding_s) == (0, 0)
    assert nine.p99.value == pytest.approx(0.018 + 0.011, rel=1e-3)
    assert three.calls == eight.calls == nine.calls
    assert three.calls == math.ceil(5 / (0.014 + 0.018 + 0.029))


def test_padding_beside_a_full_launch(contestants, time, log):
    """14 rows in batches of 8: 2 of the 16 rows that are executed are padding."""
    (speed,) = measure(contestants(Device("cpu", time, log, batching=Gears((8,)))), [14], time)
    assert speed.sizes[0].plan.padded_rows == 2
    assert speed.sizes[0].padding_s == pytest.approx(speed.sizes[0].mean.value * 2 / 16)


def test_entries_and_sizes_take_turns(contestants, time, log):
    two = contestants(Device("a", time, log), Device("b", time, log))
    speeds = measure(two, [1, 4, 8], time, seconds=4, warmup=0)
    turns = []
    for name, _ in log:
        if not turns or turns[-1][0] != name:
            turns.append([name, 0])
        turns[-1][1] += 1
    calls = speeds[0].sizes[0].calls
    assert [size.calls for speed in speeds for size in speed.sizes] == [calls] * 6
    # One call leads in, which takes more than a millisecond here; then each size once. Two turns of one may meet.
    assert {count for _, count in turns} <= {4, 8}
    first = [log[start][0] for start in range(0, len(log), 8)]
    assert set(first) == {"a", "b"}
    orders = {tuple(gear for _, gear in log[start + 1 : start + 4]) for start in range(0, len(log), 4)}
    assert len(orders) == 6


def test_calls_that_lead_in_are_not_reported(contestants, time, log):
    two = contestants(Device("a", time, log, fixed=0, per_row=1e-4), Device("b", time, log))
    speeds = measure(two, [1], time, seconds=1, warmup=2)
    launches = Counter(name for name, _ in log)
    rounds = speeds[0].sizes[0].calls
    assert launches["b"] == 2 + 2 * rounds  # one call of 11 ms is lead-in enough
    assert 2 + 10 * rounds <= launches["a"] <= 2 + 11 * rounds  # 1 ms of calls of 0.1 ms


def test_one_entry_needs_no_lead_in(contestants, time, log):
    (speed,) = measure(contestants(Device("a", time, log)), [1, 8], time, seconds=1, warmup=2)
    assert len(log) == 2 * (2 + speed.sizes[0].calls)


def test_the_time_is_for_all_together(contestants, time, log):
    two = contestants(Device("a", time, log), Device("b", time, log))
    begun, shares = time.now, []
    measure(two, [1, 8], time, seconds=10, stream=(3, 9), warmup=0, progress=shares.append)
    assert 10 <= time.now - begun < 11
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 20


def test_one_that_takes_too_long_leaves_the_others_half_of_their_time(contestants, time, log):
    two = contestants(simulator(time, log, fixed=50.0), Device("cpu", time, log))
    slow, quick = measure(two, [1], time, seconds=10)
    assert slow.sizes[0].calls == 1
    assert quick.sizes[0].calls == pytest.approx(2.5 / 0.011, abs=2)  # half of its half


def test_one_round_is_made_however_long_it_takes(contestants, time, log):
    (speed,) = measure(contestants(Device("a", time, log, fixed=100.0)), [1, 8], time, seconds=1, stream=(5,), warmup=1)
    assert [size.calls for size in speed.sizes] == [1, 1]
    assert speed.stream.passes == 3


# ------------------------------------------------------------------------------------------------------------------ streams


def test_a_ragged_stream(contestants, time, log):
    (speed,) = measure(contestants(Device("a", time, log, concurrency=1)), [1], time, seconds=4, stream=(3, 0, 9, 8))
    stream = speed.stream
    # 3 rows on gear 4, none, 8 and 1, 8: 0.014 + 0.018 + 0.011 + 0.018 s.
    assert stream.requests == (3, 0, 9, 8)
    assert (stream.launches, stream.padded_rows) == ({1: 1, 4: 1, 8: 2}, 1)
    assert stream.rows_per_s.value == pytest.approx(20 / 0.061, rel=1e-3)
    assert stream.passes == pytest.approx(1 / 0.061, abs=2)  # a quarter of the time


def test_a_stream_through_batches_that_the_runtime_pads(contestants, time, log):
    (speed,) = measure(contestants(Device("a", time, log, batching=MultipleOf(4))), [5], time, seconds=0.1, stream=(5, 4))
    assert speed.sizes[0].plan.padded_rows == 3
    assert (speed.stream.launches, speed.stream.padded_rows) == ({4: 1, 8: 1}, 3)


# ----------------------------------------------------------------------------------------------------------------- failures


def test_one_that_fails_in_the_middle_keeps_what_was_measured(contestants, time, log):
    bad = Device("bad", time, log, faults={("execute", 31): DeviceError("gone", backend="bad", operation="x", status=1)})
    two = contestants(bad, Device("good", time, log))
    broken, good = measure(two, [1, 8], time, seconds=5, stream=(3,))
    (failure,) = two[0].failures
    assert (failure.stage, failure.error, failure.case) in {("speed", "DeviceError", case) for case in ("1 row", "8 rows")}
    assert failure.message.endswith("gone")
    assert bad.calls["execute"] == 31  # not even the stream was sent
    assert [size.calls for size in broken.sizes] == pytest.approx([7, 7], abs=1)
    assert broken.stream is None
    assert two[1].failures == []
    assert good.sizes[0].calls > 50
    assert good.stream.passes > 3


@pytest.mark.parametrize("execution", [1, 2, 3])
def test_one_that_fails_in_the_warm_up(contestants, time, log, execution):
    fault = DeviceError("gone", backend="bad", operation="x", status=1)
    two = contestants(Device("bad", time, log, faults={("execute", execution): fault}), Device("good", time, log))
    broken, good = measure(two, [1, 8], time, seconds=1, warmup=1, stream=(3,))
    assert [failure.error for failure in two[0].failures] == ["DeviceError"]
    assert two[0].failures[0].case == ["1 row", "8 rows", "ragged stream"][execution - 1]
    assert (broken.sizes, broken.stream) == ((), None)
    assert broken.clock == "wall clock"
    assert len(good.sizes) == 2


def test_a_request_that_is_refused_ends_its_size_only(contestants, time, log):
    """The output of this model has no rows, so what is no whole launch is refused."""
    inputs = SUMMED.random_inputs(np.random.default_rng(0), 8)
    (one,) = contestants(Device("a", time, log), model=SUMMED)
    (speed,) = measure([one], [1, 5, 8], time, inputs=inputs, seconds=1, stream=(4, 5))
    assert [size.rows for size in speed.sizes] == [1, 8]
    assert speed.stream is None
    assert [(failure.error, failure.case) for failure in one.failures] == [
        ("InputError", "5 rows"),
        ("InputError", "ragged stream"),
    ]
    assert sorted(one.plans) == [1, 8]


def test_inputs_that_do_not_fit_are_the_entrys_failure(contestants, time, log):
    (one,) = contestants(Device("a", time, log))
    (speed,) = measure([one], [1], time, inputs={"z": ROWS["x"]})
    assert one.failures[0].message == "expected rows for the inputs ['x'], got none for ['x']"
    assert speed.sizes == ()


def test_a_scalar_input_stays_one(contestants, time, log):
    inputs = SCALAR.random_inputs(np.random.default_rng(0), 4)
    (one,) = contestants(Device("a", time, log), model=SCALAR)
    (speed,) = measure([one], [1, 6], time, inputs=inputs, seconds=1)
    assert one.failures == []
    assert len(speed.sizes) == 2


def test_an_interrupt_passes(contestants, time, log):
    one = contestants(Device("a", time, log, faults={("execute", 5): KeyboardInterrupt()}))
    with pytest.raises(KeyboardInterrupt):
        measure(one, [1], time)


def test_one_that_is_not_open_is_passed_over(contestants, time, log):
    closed = Contestant(Entry(Device("b", time, log)), AFFINE.onnx_bytes)
    assert [speed.entry for speed in measure([closed, *contestants(Device("a", time, log))], [1], time)] == ["a"]


@pytest.mark.parametrize("name", ["float16", "int32"])
def test_floats_and_integers_are_converted_to_the_entrys_own(contestants, time, log, name):
    model = BY_DTYPE[name]
    wide = {"float16": np.float64, "int32": np.int64}[name]
    inputs = {key: array.astype(wide) for key, array in model.random_inputs(np.random.default_rng(0), 4).items()}
    (one,) = contestants(Device("a", time, log), model=model)
    (speed,) = measure([one], [4], time, inputs=inputs)
    assert one.failures == []
    assert speed.sizes[0].calls > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, "expected sizes of 1 row or more, and a stream that has rows, got [] and []"),
        ({"sizes": [0, 1]}, "expected sizes of 1 row or more, and a stream that has rows, got [0, 1] and []"),
        ({"sizes": [1], "stream": (0, 0)}, "expected sizes of 1 row or more, and a stream that has rows, got [1] and [0, 0]"),
        ({"sizes": [1], "stream": (3, -1)}, "expected sizes of 1 row or more, and a stream that has rows, got [1] and [3, -1]"),
        ({"sizes": [1], "seconds": 0}, "expected seconds > 0 and warmup >= 0, got 0 and 3"),
        ({"sizes": [1], "seconds": math.inf}, "expected seconds > 0 and warmup >= 0, got inf and 3"),
        ({"sizes": [1], "warmup": -1}, "expected seconds > 0 and warmup >= 0, got 10.0 and -1"),
    ],
)
def test_what_cannot_be_timed(time, arguments, message):
    with pytest.raises(InputError) as caught:
        measure([], time=time, **arguments)
    assert str(caught.value) == message


# --------------------------------------------------------------------------------------------------------------- simulators


def simulator(time, log, name="npu-sim", **arguments):
    return Device(name, time, log, clock=DeviceClock(), **arguments)


def test_a_simulator_is_timed_on_its_own_clock_and_not_for_long(contestants, time, log):
    both = contestants(simulator(time, log), Device("cpu", time, log))
    modelled, measured = measure(both, [1, 8], time, seconds=20, stream=(3, 9), warmup=1)
    assert (modelled.provenance, modelled.clock) == ("modelled", "device clock of a fake")
    assert [size.calls for size in modelled.sizes] == [10, 10]
    assert modelled.sizes[0].p50.value == pytest.approx(0.011 / 1000)
    assert modelled.sizes[0].p50.low == pytest.approx(modelled.sizes[0].p99.high, rel=1e-3)
    assert modelled.stream.passes == 3
    assert measured.sizes[0].calls > 100  # it gets the rest of the time
    # Warmed up together; then the simulator is through before the other begins.
    names = [name for name, _ in log[log.index(("cpu", 1)) :]]
    timed = [name for position, name in enumerate(names) if name == "npu-sim" or "npu-sim" not in names[position:]]
    assert timed == sorted(timed, reverse=True)


def test_simulators_are_not_timed_in_turns_with_one_another(contestants, time, log):
    """Sessions of one simulator share its clock, and would move it for one another."""
    two = contestants(simulator(time, log, "a-sim"), simulator(time, log, "b-sim"))
    measure(two, [1, 8], time, seconds=20, warmup=0)
    names = [name for name, _ in log]
    assert names == sorted(names)
    assert Counter(names) == {"a-sim": 20, "b-sim": 20}


def test_a_modelled_time_is_what_calls_agree_on(contestants, time, log):
    """Before that, the clock may have caught up with another thread's."""
    device = simulator(time, log)
    (one,) = contestants(device)
    begin = device._begin

    def with_a_jump(launch):
        begin(launch)
        if len(log) == 4:
            device.clock.now += 5.0

    device._begin = with_a_jump
    (speed,) = measure([one], [1], time, seconds=100, warmup=0)
    assert len(log) == 4 + 10
    assert speed.sizes[0].calls == 10
    assert speed.sizes[0].p99.high == pytest.approx(0.011 / 1000)


def test_a_clock_that_never_agrees_with_itself_shows_its_spread(contestants, time, log):
    device = simulator(time, log)
    (one,) = contestants(device)
    begin = device._begin

    def by_turns(launch):
        begin(launch)
        device.clock.now += len(log) % 2 * 1e-3

    device._begin = by_turns
    (speed,) = measure([one], [1], time, seconds=1, warmup=0)
    assert speed.sizes[0].calls > 80
    for figure in (speed.sizes[0].mean, speed.sizes[0].rows_per_s):
        assert figure.low < figure.value < figure.high


def test_a_simulator_without_a_clock_has_no_figures(contestants, time, log):
    both = contestants(Device("npu-sim", time, log), Device("cpu", time, log))
    simulated, _ = measure(both, [1], time, stream=(3,))
    assert (simulated.provenance, simulated.sizes, simulated.stream) == ("modelled", (), None)
    assert simulated.clock.startswith("none: a simulator without a device clock, ")
    assert both[0].failures == []
    assert "npu-sim" not in {name for name, _ in log}


def test_a_clock_that_stands_still_gives_no_figures(contestants, time, log):
    device = simulator(time, log, fixed=0, per_row=0)
    (one,) = contestants(device)
    (speed,) = measure([one], [1], time, stream=(3,))
    assert (speed.sizes, speed.stream) == ((), None)
    assert speed.clock == "device clock of a fake, which stood still"
    assert ranking([speed], 1) == ranking([speed], None) == ()


# ---------------------------------------------------------------------------------------------------------------- intervals


def summarise(times, seed=0):
    (p50, p90, p99), mean = _summarise(times, (50.0, 90.0, 99.0), [seed])
    return p50, p90, p99, mean


def test_percentiles_are_times_that_were_measured():
    times = np.random.default_rng(1).permutation(np.arange(1.0, 101.0))
    p50, p90, p99, mean = summarise(times)
    assert [each.value for each in (p50, p90, p99, mean)] == [50, 90, 99, 50.5]
    assert all(each.low in times and each.high in times for each in (p50, p90, p99))
    assert p50.low < 50 < p50.high


def test_intervals_repeat_with_their_seed():
    times = list(np.random.default_rng(1).exponential(size=500))
    assert summarise(times, 3) == summarise(times, 3)
    assert summarise(times, 3) != summarise(times, 4)


def test_equal_times_have_no_spread():
    assert summarise([2.5] * 7) == (Interval(2.5, 2.5, 2.5),) * 4


def test_one_call_is_all_there_is():
    assert summarise([0.25]) == (Interval(0.25, 0.25, 0.25),) * 4


@pytest.mark.parametrize(("calls", "unbounded"), [(5, {50, 90, 99}), (6, {90, 99}), (35, {90, 99}), (36, {99}), (367, {99})])
def test_an_interval_that_nothing_bounds_ends_at_the_largest(calls, unbounded):
    times = np.random.default_rng(2).exponential(size=calls)
    for percent, interval in zip((50, 90, 99), summarise(times), strict=False):
        if percent in unbounded:
            assert interval.high == times.max()
    if calls == 5:
        assert summarise(times)[0].low == times.min()


def test_of_many_calls_intervals_end_at_the_far_side_of_a_mark():
    """Of 5000 calls 2048 marks are looked at, each for 2 or 3 calls in a row."""
    for interval in summarise(np.random.default_rng(5).permutation(np.arange(5000.0)))[:3]:
        low, high = int(interval.low), int(interval.high)
        assert low * 2048 // 5000 != (low - 1) * 2048 // 5000
        assert high * 2048 // 5000 != (high + 1) * 2048 // 5000


def test_many_calls_bound_the_99th_percentile():
    times = np.random.default_rng(2).exponential(size=3000)
    assert summarise(times)[2].high < times.max()


@pytest.mark.parametrize("calls", [60, 400, 3000])  # with 3000, marks are fewer than calls, and blocks longer than one
def test_intervals_hold_the_truth_as_often_as_they_say(calls):
    """Known percentiles, 150 samples: 95 % of intervals hold them, give or take; of p99 only where calls bound it."""
    truth = [1 - math.log(1 - percent / 100) for percent in (50, 90, 99)] + [2.0]
    held = np.zeros(4)
    for sample in range(150):
        times = 1 + np.random.default_rng([7, sample]).exponential(size=calls)
        held += [each.low <= true <= each.high for each, true in zip(summarise(times, sample), truth, strict=True)]
    shares = held / 150
    assert all(0.89 <= share <= 0.99 for share in shares[[0, 1, 3]])
    assert calls < 368 or 0.89 <= shares[2] <= 0.99


def test_calls_in_a_row_that_are_alike_widen_intervals():
    """The same times in bursts are fewer independent ones, and the interval of their mean says so."""
    times = np.random.default_rng(3).permutation(np.repeat(np.random.default_rng(4).exponential(size=100), 20))
    apart, bursts = summarise(times)[3], summarise(np.repeat(np.random.default_rng(4).exponential(size=100), 20))[3]
    assert apart.value == pytest.approx(bursts.value)
    assert bursts.high - bursts.low > 3 * (apart.high - apart.low)


# ------------------------------------------------------------------------------------------------------------------ ranking


def speed(entry, p50, *, provenance="measured", calls=100, stream=None, passes=10):
    plan = FakePlan(8)
    any_ = Interval(1, 1, 1)
    size = SizeSpeed(plan, calls, p50, any_, any_, any_, any_, 0.0)
    of_stream = None if stream is None else StreamSpeed((8,), passes, stream, {8: 1}, 0)
    return Speed(entry, provenance, "a clock", (size,), of_stream)


class FakePlan:
    def __init__(self, rows):
        self.rows = rows


A, B, C = Interval(2, 1, 3), Interval(3.5, 2.5, 4.5), Interval(5, 4, 6)


def test_faster_is_only_who_was_shown_to_be():
    (one,) = ranking([speed("c", C), speed("b", B), speed("a", A)], 8)
    assert (one.provenance, one.rows) == ("measured", 8)
    assert [(rank.entry, rank.place, rank.faster_than) for rank in one.ranks] == [
        ("a", 1, ("c",)),
        ("b", 1, ()),
        ("c", 2, ()),
    ]
    assert one.ranks[0].figure is A


def test_what_is_modelled_is_never_ranked_with_what_is_measured():
    modelled = speed("sim", Interval(1e-9, 1e-9, 1e-9), provenance="modelled")
    measured, simulated = ranking([modelled, speed("cpu", A), replace(modelled, entry="other")], 8)
    assert (measured.provenance, [rank.entry for rank in measured.ranks]) == ("measured", ["cpu"])
    assert (simulated.provenance, [rank.entry for rank in simulated.ranks]) == ("modelled", ["sim", "other"])
    assert [(rank.place, rank.faster_than) for rank in (*measured.ranks, *simulated.ranks)] == [(1, ())] * 3


def test_few_calls_show_nothing():
    assert all(rank.place == 1 for rank in ranking([speed("a", A, calls=5), speed("c", C)], 8)[0].ranks)
    assert ranking([speed("a", A, calls=6), speed("c", C, calls=6)], 8)[0].ranks[1].place == 2
    few = [speed("a", A, calls=1, provenance="modelled"), speed("c", C, calls=1, provenance="modelled")]
    assert ranking(few, 8)[0].ranks[1].place == 2  # a model needs no repetition


def test_a_stream_is_faster_where_more_rows_pass():
    (one,) = ranking([speed("slow", A, stream=A), speed("fast", A, stream=C), speed("none", A)], None)
    assert [(rank.entry, rank.place, rank.faster_than, rank.figure) for rank in one.ranks] == [
        ("fast", 1, ("slow",), C),
        ("slow", 2, (), A),
    ]
    few = ranking([speed("slow", A, stream=A, passes=3), speed("fast", A, stream=C, passes=3)], None)[0]
    assert [rank.place for rank in few.ranks] == [1, 1]


def test_a_size_that_nobody_has_is_not_ranked():
    assert ranking([speed("a", A)], 7) == ()
