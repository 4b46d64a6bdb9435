"""MLPerf's load generator on runners: what each scenario sends, its verdict read from its logs, and tests that fail.

No time is asserted: bounds are so wide, or so impossible, that the verdict does not depend on the machine.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import numpy as np
import pytest

import anybatch
from anybatch import (
    AnyBatch,
    DeviceError,
    Gears,
    InputError,
    MissingPackageError,
    ModelError,
    ModelSpec,
    MultipleOf,
    Runner,
    TensorSpec,
)
from anybatch.loadgen import LoadResult, _fewest, _Log, _Settings, _System, run_scenario
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, COUPLED, MODELS, TABLE

pytest.importorskip("mlperf_loadgen", reason="there are no wheels of it for this kind of machine")

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
by_scenario = pytest.mark.parametrize("scenario", SCENARIOS)
# Bounds that no machine misses, and queries enough for any.
EASY = {
    "SingleStream": {"expected_qps": 200_000, "min_duration_s": 0.05},
    "MultiStream": {"expected_qps": 200_000, "min_duration_s": 0.05},
    "Server": {"target_qps": 20_000, "target_latency_s": 60.0, "min_duration_s": 0.05},
    "Offline": {"expected_qps": 20_000_000, "min_duration_s": 0.001},
}


def request(rows, model=AFFINE):
    return model.random_inputs(np.random.default_rng(3), rows)


def open_fake(model=AFFINE, batching=None, *, backend=None, **options):
    return anybatch.open(model.onnx_bytes, backend=backend or FakeBackend(batching), **options)


@pytest.fixture
def load(tmp_path):
    """Return a function that runs a scenario, quickly, with its logs in a folder of the test."""

    def call(runner, inputs, scenario, **options):
        options = {"log_folder": tmp_path / "logs", "warmup_s": 0} | options
        if options.get("mode") != "AccuracyOnly":
            options = EASY.get(scenario, EASY["SingleStream"]) | options
        return run_scenario(runner, inputs, scenario=scenario, **options)

    return call


@pytest.fixture
def logged(tmp_path):
    """Return a function that reads a value from the detailed log."""
    return lambda key: _Log(tmp_path / "logs" / "mlperf_log_detail.txt").values[key]


# ------------------------------------------------------------------------------------------------------------ what is sent


def recording(runner):
    """Return the runner, and the list of what it is asked to run from now on."""
    requests, run = [], runner.run

    def kept(inputs, **options):
        requests.append(inputs)
        return run(inputs, **options)

    runner.run = kept
    return requests


@by_scenario
@pytest.mark.parametrize("model", [m for m in MODELS if not m.combine and m is not COUPLED], ids=lambda model: model.name)
def test_every_sample_is_answered_with_its_own_outputs(load, scenario, model):
    inputs = request(13, model)
    with open_fake(model) as runner:
        result = load(runner, inputs, scenario, mode="AccuracyOnly", samples_per_query=4, request_rows=5)
    want = model.reference(inputs)
    kept = {tensor.name for tensor in model.spec.outputs if tensor.batch_axis is not None}
    assert result.outputs.keys() == kept
    assert kept
    for name in kept:
        np.testing.assert_allclose(result.outputs[name], want[name], rtol=1e-5, atol=1e-5)
    assert result.samples == (16 if scenario == "MultiStream" else 13)  # filled up to whole queries
    assert (result.valid, result.verdict, result.metric, result.percentiles) == (None, "no verdict", "", {})


@by_scenario
def test_the_accuracy_log_has_the_outputs_as_bytes(load, scenario):
    inputs = request(9)
    with open_fake() as runner:
        result = load(runner, inputs, scenario, mode="AccuracyOnly")
    entries = json.loads(result.logs[2].read_text())
    assert {entry["qsl_idx"] for entry in entries} == set(range(9))
    names = [tensor.name for tensor in AFFINE.spec.outputs]
    for entry in entries:
        row = b"".join(result.outputs[name][entry["qsl_idx"]].tobytes() for name in names)
        assert bytes.fromhex(entry["data"]) == row


@by_scenario
def test_results_are_handed_over_instead_of_kept(load, scenario):
    inputs, seen, busy = request(20), {}, threading.Lock()

    def take(indices, outputs):
        assert busy.acquire(blocking=False), "expected one thread at a time"
        for row, index in enumerate(indices):
            seen[index] = {name: array[row] for name, array in outputs.items()}
        busy.release()

    with open_fake() as runner:
        result = load(runner, inputs, scenario, mode="AccuracyOnly", results=take, request_rows=3)
        want = runner.run(inputs)
    assert result.outputs == {}
    assert sorted(seen) == list(range(20))
    for index, outputs in seen.items():
        for name in want:
            np.testing.assert_allclose(outputs[name], want[name][index], rtol=1e-5)


@pytest.mark.parametrize(
    ("scenario", "sizes"), [("SingleStream", {1}), ("MultiStream", {5}), ("Server", {1}), ("Offline", {16, 10_000 % 16 or 16})]
)
def test_what_a_request_is(load, scenario, sizes):
    with open_fake() as runner:
        exact = {"expected_qps": 1.0, "min_query_count": 10_000, "request_rows": 16} if scenario == "Offline" else {}
        result = load(runner, request(50), scenario, samples_per_query=5, min_duration_s=0.05, **exact)
        before = {1: 3, 5: 3, 16: 12}  # the warm-up's three rounds at most
        counted = {size: count for size, count in runner.stats().sizes.items() if count > before.get(size, 0)}
    assert set(counted) == sizes
    assert result.samples == result.queries * {"MultiStream": 5, "Offline": 10_000}.get(scenario, 1)


@pytest.mark.parametrize(
    ("batching", "rows"), [(Gears((1, 4, 8)), 64), (Gears((48,)), 96), (MultipleOf(100), 100), (AnyBatch(), 64)], ids=str
)
def test_offline_requests_fill_the_largest_batch_size(load, batching, rows):
    with open_fake(batching=batching) as runner:
        requests = recording(runner)
        load(runner, request(200), "Offline", mode="AccuracyOnly")
        sizes = {len(next(iter(inputs.values()))) for inputs in requests}
    assert sizes == {rows, 200 % rows} - {0}


def test_inputs_without_rows_go_with_every_request(load):
    inputs = request(6, TABLE)
    (common,) = (tensor.name for tensor in TABLE.spec.inputs if tensor.batch_axis is None)
    with open_fake(TABLE) as runner:
        requests = recording(runner)
        load(runner, inputs, "MultiStream", mode="AccuracyOnly")
    assert requests
    assert all(sent[common] is inputs[common] for sent in requests)


def test_the_seed_decides_the_order(load):
    def order(seed):
        seen = []
        load(
            runner, request(50), "SingleStream", mode="AccuracyOnly", seed=seed, results=lambda indices, _: seen.extend(indices)
        )
        return seen

    with open_fake() as runner:
        assert order(1) == order(1)
        assert order(1) != order(2)


def test_performance_samples_are_a_choice_of_them(load):
    inputs = request(50)
    (name,) = inputs
    with open_fake() as runner:
        requests = recording(runner)
        load(runner, inputs, "SingleStream", performance_samples=3)
        requests = requests[3:]  # after the warm-up
    assert len({sent[name].tobytes() for sent in requests}) == 3


# ------------------------------------------------------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("scenario", "line", "unit"),
    [
        ("SingleStream", "90.0th percentile latency (ns) : ", "s"),
        ("MultiStream", "99.0th percentile latency (ns) : ", "s"),
        ("Server", "Completed samples per second    : ", "1/s"),
        ("Offline", "Samples per second: ", "1/s"),
    ],
)
def test_a_valid_run_and_its_figures(load, logged, tmp_path, scenario, line, unit):
    with open_fake() as runner:
        result = load(runner, request(20), scenario)
    assert (result.valid, result.verdict, result.reasons, result.recommendation) == (True, "VALID", (), "")
    summary = (tmp_path / "logs" / "mlperf_log_summary.txt").read_text()
    assert "Result is : VALID" in summary
    figure = float(summary.split(line)[1].split("\n")[0])
    assert result.value == pytest.approx(figure / 1e9 if unit == "s" else figure, rel=1e-4)
    assert result.unit == unit
    assert result.queries == logged("result_query_count")
    assert list(result.percentiles) == [50, 90, 95, 97, 99, 99.9]
    assert list(result.percentiles.values()) == sorted(result.percentiles.values())
    assert result.percentiles[50] > 0
    assert str(result).startswith(f"{scenario}, PerformanceOnly: VALID: {result.metric} ")
    assert [path.name for path in result.logs] == [
        f"mlperf_log_{name}" for name in ("summary.txt", "detail.txt", "accuracy.json", "trace.json")
    ]
    assert all(path.is_file() for path in result.logs)


def test_a_latency_bound_that_nothing_meets_is_invalid(load):
    with open_fake() as runner:
        result = load(runner, request(20), "Server", target_qps=2000, target_latency_s=1e-9, min_query_count=50)
    assert (result.valid, result.verdict) == (False, "INVALID")
    assert "the latency constraint was not met" in result.reasons
    assert any(
        reason.startswith("too few queries, or too few in time, to be sure: Run unsuccessful.") for reason in result.reasons
    )
    assert result.recommendation.startswith("Reduce target QPS to improve latency.")  # and more, where it gave up early
    assert result.recommendation in str(result)
    assert all(reason in str(result) for reason in result.reasons)


def test_a_run_that_ends_too_soon_is_invalid(load):
    with open_fake() as runner:
        result = load(runner, request(20), "SingleStream", expected_qps=1, min_duration_s=5, min_query_count=1)
    assert result.valid is False
    assert result.reasons[0] == "the minimum duration was not reached"
    assert any("Ran out of generated queries" in error for error in result.errors)
    assert "Decrease the expected latency" in result.recommendation


def test_a_run_that_is_stopped_before_it_has_enough_queries_is_invalid(load):
    with open_fake() as runner:
        result = load(runner, request(20), "SingleStream", min_query_count=10**6, max_duration_s=0.06)
    assert result.valid is False
    assert "the minimum number of queries was not reached" in result.reasons


def test_a_server_that_falls_behind_is_stopped(load, monkeypatch):
    """Nothing is answered before the last query has come."""
    last, flush = threading.Event(), _System.flush

    def noted(self):
        last.set()
        flush(self)

    monkeypatch.setattr(_System, "flush", noted)
    with open_fake() as runner:
        run, submit = runner.run, runner.submit

        def late(inputs, **options):
            assert last.wait(60)
            return run(inputs, **options)

        def submit_late(inputs):
            runner.run = late
            return submit(inputs)

        runner.submit = submit_late
        result = load(
            runner, request(20), "Server", target_qps=1000, target_latency_s=1e-3, min_query_count=600, min_duration_s=0.6
        )
    assert result.valid is False
    assert result.queries == 17
    assert any("Too many outstanding queries" in error for error in result.errors)
    assert "the minimum duration was not reached" in result.reasons


def test_when_a_server_is_given_up_it_could_not_be_valid_any_more():
    def most(qps, latency, seconds=2.0):
        checked = {"samples_per_query": 1, "expected_qps": None, "performance_samples": 1, "request_rows": 1, "warmup_s": 0}
        return _Settings(
            scenario="Server",
            mode="PerformanceOnly",
            target_qps=qps,
            target_latency_s=latency,
            min_duration_s=seconds,
            max_duration_s=1e5,
            min_query_count=100,
            seed=0,
            **checked,
        ).most_waiting

    assert most(100, 1e-6) == 16
    assert most(1000, 1.0) == 10_000
    assert most(1000, 1e-3, seconds=600) == 12_000


def test_the_fewest_queries_are_those_that_the_load_generator_names(load):
    assert [_fewest(scenario) for scenario in SCENARIOS] == [64, 662, 662, 1]
    with open_fake() as runner:
        assert "at least 64 queries" in load(runner, request(20), "SingleStream").early_stopping
        assert "at least 662 queries" in load(runner, request(20), "MultiStream").early_stopping


def test_the_warm_up_measures_what_to_expect(load):
    with open_fake() as runner:
        for scenario in ("SingleStream", "MultiStream", "Offline"):
            result = load(runner, request(20), scenario, expected_qps=None, warmup_s=0.01, min_query_count=1)
            assert result.queries > (scenario != "Offline")


def test_a_simulator_is_named(load):
    backend = FakeBackend()
    backend.name = "fake-sim"
    with open_fake(backend=backend) as runner:
        result = load(runner, request(5), "SingleStream")
    assert result.simulated
    assert str(result).endswith(
        "SIMULATED: times are those of the simulator's program on this machine, no hardware was measured"
    )
    with open_fake() as runner:
        result = load(runner, request(5), "SingleStream")
    assert not result.simulated
    assert "SIMULATED" not in str(result)


def test_the_trace_is_written_where_wanted(load):
    with open_fake() as runner:
        assert load(runner, request(5), "Server").logs[3].read_bytes() == b""
        assert load(runner, request(5), "Server", trace=True).logs[3].read_text().startswith('{"traceEvents":')


def test_audit_settings_that_lie_about_change_nothing(load, logged, tmp_path, monkeypatch):
    (tmp_path / "audit.config").write_text("*.SingleStream.min_query_count = 3\n")
    monkeypatch.chdir(tmp_path)
    with open_fake() as runner:
        assert load(runner, request(5), "SingleStream").valid
    assert logged("effective_min_query_count") == 64


# -------------------------------------------------------------------------------------------------------- tests that fail

# Long enough for a test to hang that is not ended early; what they prepare is issued in a moment.
LONG = {
    "SingleStream": {"expected_qps": 500, "min_duration_s": 20},
    "MultiStream": {"expected_qps": 500, "min_duration_s": 20},
    "Server": {"target_qps": 5000, "target_latency_s": 1e-3, "min_duration_s": 20},
    "Offline": {"expected_qps": 5000, "min_duration_s": 20},
}


@by_scenario
@pytest.mark.parametrize("mode", ["PerformanceOnly", "AccuracyOnly"])
def test_a_runner_that_fails_ends_the_test_with_its_error(load, logged, scenario, mode):
    failure = DeviceError("it broke", backend="fake", operation="execute")
    backend = FakeBackend(faults={("execute", 60): failure})
    options = LONG[scenario] if mode == "PerformanceOnly" else {}
    with open_fake(backend=backend) as runner:
        with pytest.raises(DeviceError) as raised:
            load(runner, request(600), scenario, mode=mode, request_rows=8, **options)
        assert raised.value is failure
        if mode == "PerformanceOnly":
            assert logged("result_min_duration_met") is False
        assert load(runner, request(20), scenario).valid, "expected the next test to be as good as ever"


@by_scenario
def test_a_runner_that_is_closed_meanwhile_ends_the_test(load, scenario):
    with open_fake() as runner:
        run, calls = runner.run, []

        def closing(inputs, **options):
            calls.append(1)
            if len(calls) == 20:
                threading.Thread(target=runner.close).start()
            return run(inputs, **options)

        runner.run = closing
        with pytest.raises(anybatch.ClosedError):
            load(runner, request(20), scenario, **LONG[scenario])


@by_scenario
def test_an_error_of_results_is_raised(load, scenario):
    def broken(indices, outputs):
        raise ZeroDivisionError("no such thing")

    with open_fake() as runner:
        with pytest.raises(ZeroDivisionError, match="no such thing"):
            load(runner, request(200), scenario, mode="AccuracyOnly", results=broken)
        assert load(runner, request(20), scenario).valid


@pytest.fixture
def interruptible():
    """Interrupts are Python's own: what runs in the background inherits that they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@by_scenario
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_test(load, logged, scenario):
    with open_fake() as runner:
        run, calls = runner.run, []

        def interrupting(inputs, **options):
            calls.append(1)
            if len(calls) == 20:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            return run(inputs, **options)

        runner.run = interrupting
        with pytest.raises(KeyboardInterrupt):
            load(runner, request(20), scenario, **LONG[scenario])
        assert logged("result_min_duration_met") is False
        runner.run = run
        assert load(runner, request(20), scenario).valid


def test_a_failing_warm_up_starts_no_test(load, tmp_path):
    failure = DeviceError("it broke", backend="fake", operation="execute")
    with open_fake(backend=FakeBackend(faults={("execute", 2): failure})) as runner:
        with pytest.raises(DeviceError, match="it broke"):
            load(runner, request(5), "SingleStream")
    assert (tmp_path / "logs" / "mlperf_log_detail.txt").read_text() == ""


def test_there_is_one_test_at_a_time(load):
    with open_fake() as runner:

        def another(indices, outputs):
            load(runner, request(5), "SingleStream")

        with pytest.raises(InputError, match="another test of the load generator is running in this process"):
            load(runner, request(5), "SingleStream", mode="AccuracyOnly", results=another)
        assert load(runner, request(5), "SingleStream").valid


class Ragged:
    """A session whose output is as wide as its input says, so that one-row requests differ."""

    spec = ModelSpec((TensorSpec("x", np.dtype("float32"), (None,)),), (TensorSpec("y", np.dtype("float32"), (None, None)),))
    batching = AnyBatch()
    concurrency = None

    def execute(self, inputs, gear, out=None):
        return {"y": np.zeros((gear, int(inputs["x"][0])), np.float32)}

    def close(self):
        pass


def test_outputs_that_are_no_one_array_need_results(load):
    inputs, widths = {"x": np.array([1, 2, 3], np.float32)}, set()
    with Runner(Ragged()) as runner:
        with pytest.raises(ModelError, match=r"'y' .* has other dimensions in each request.*: give `results`"):
            load(runner, inputs, "SingleStream", mode="AccuracyOnly")
        load(
            runner,
            inputs,
            "SingleStream",
            mode="AccuracyOnly",
            results=lambda _, outputs: widths.add(outputs["y"].shape[1]),
        )
    assert widths == {1, 2, 3}


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "Serving"}, "expected a scenario of .*'Serving'"),
        ({"mode": "FindPeakPerformance"}, "and a mode of .*'FindPeakPerformance'"),
        ({"samples_per_query": 0}, "expected samples_per_query >= 1, got 0"),
        ({"min_query_count": 0}, "expected min_query_count >= 1, got 0"),
        ({"request_rows": 0}, "expected request_rows >= 1, got 0"),
        ({"performance_samples": 6}, "expected performance_samples of at most the 5 rows there are, got 6"),
        ({"min_duration_s": float("nan")}, "expected min_duration_s to be a number above 0, got nan"),
        ({"expected_qps": -1.0}, "expected expected_qps to be a number above 0, got -1.0"),
        ({"max_duration_s": 0.01}, "expected max_duration_s >= min_duration_s, 0.05, got 0.01"),
        ({"warmup_s": -1}, "expected warmup_s >= 0"),
        ({"seed": -1}, "a seed of 64 bits, got 0 and -1"),
        ({"target_qps": 5.0}, "target_qps and target_latency_s are for Server"),
        ({"scenario": "Server", "target_latency_s": None}, "expected target_qps and target_latency_s for Server"),
        ({"scenario": "Server", "target_qps": None}, "expected target_qps and target_latency_s for Server"),
        ({"scenario": "Server", "expected_qps": 5.0}, "for Server, and no expected_qps"),
        ({"scenario": "Server", "target_qps": 10.0}, "at 10 queries per second, 662 of them take longer than 0.5 s: raise"),
        ({"results": print}, "results are handed over in AccuracyOnly"),
        (
            {"min_duration_s": 600, "expected_qps": 1e6},
            "would prepare 1,200,000,000 samples .*: choose a shorter min_duration_s",
        ),
    ],
)
def test_arguments_that_do_not_fit(load, options, message):
    options = {"scenario": "SingleStream"} | options
    backend = FakeBackend()
    with open_fake(backend=backend) as runner:
        with pytest.raises(InputError, match=message):
            load(runner, request(5), **options)
        assert backend.calls["execute"] <= 3, "expected the warm-up at most"


def test_inputs_that_do_not_fit(load):
    with open_fake() as runner:
        with pytest.raises(InputError, match="expected inputs of one row or more"):
            load(runner, request(0), "Offline")
        with pytest.raises(InputError, match="missing"):
            load(runner, {}, "Offline")


def test_logs_that_cannot_be_written(load, tmp_path):
    (tmp_path / "file").write_text("")
    with open_fake() as runner:
        with pytest.raises(InputError, match="file: the load generator's logs cannot be written there: File exists"):
            load(runner, request(5), "Offline", log_folder=tmp_path / "file")
        (tmp_path / "folder" / "mlperf_log_trace.json").mkdir(parents=True)
        with pytest.raises(InputError, match="the load generator's logs cannot be written there: Is a directory"):
            load(runner, request(5), "Offline", log_folder=tmp_path / "folder")


def test_without_the_load_generator(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with open_fake() as runner:
        with pytest.raises(MissingPackageError, match=r"not installed: pip install 'anybatch\[loadgen\]'"):
            load(runner, request(5), "Offline")


# ----------------------------------------------------------------------------------------------------------- unreadable logs

GOOD = ':::MLLOG {"key": "result_validity", "value": "VALID", "metadata": {"is_error": false}}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it is empty: the load generator wrote nothing"),
        (GOOD.encode() + b':::MLLOG {"key": "resu', "line 2: expected ':::MLLOG ' and JSON with a key"),
        (b"MLPerf 0.5\n", "line 1: expected ':::MLLOG ' and JSON with a key, got 'MLPerf 0.5'"),
        (b":::MLLOG []\n", "line 1: expected ':::MLLOG ' and JSON with a key"),
        (b':::MLLOG {"value": 1}\n', "line 1: expected ':::MLLOG ' and JSON with a key"),
        (b"\xff\xfe\n", "utf-8"),
        (None, "No such file"),
    ],
)
def test_a_log_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "mlperf_log_detail.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(DeviceError, match=message) as raised:
        _Log(path)
    assert (raised.value.backend, raised.value.operation) == ("mlperf_loadgen", "reading the log")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("result_validity", '"MAYBE"', "expected result_validity to be VALID or INVALID, got 'MAYBE'"),
        ("result_validity", "3", "expected result_validity of type str, got 3"),
        ("result_99.00_percentile_latency_ns", "true", "expected result_99.00_percentile_latency_ns of type float, got True"),
        ("result_90.00_percentile_latency_ns", "null", "expected result_90.00_percentile_latency_ns of type float, got None"),
    ],
)
def test_a_log_that_says_something_else(load, monkeypatch, key, value, message):
    """What the load generator wrote is changed before it is read."""
    read = _Log.__init__

    def changed(self, path):
        with path.open("a") as file:
            file.write(f':::MLLOG {{"key": "{key}", "value": {value}}}\n')
        read(self, path)

    monkeypatch.setattr(_Log, "__init__", changed)
    with open_fake() as runner:
        with pytest.raises(DeviceError, match=message):
            load(runner, request(5), "SingleStream")


def test_results_are_values(load):
    with open_fake() as runner:
        result = load(runner, request(5), "SingleStream")
    assert isinstance(result, LoadResult)
    with pytest.raises(AttributeError):
        result.valid = False


def test_all_tests_run_in_one_thread(load):
    """The load generator may end the process in the test after a thread that ran one has ended."""
    threads = set()
    with open_fake() as runner:
        run = runner.run

        def noted(inputs, **options):
            threads.add(threading.current_thread())
            return run(inputs, **options)

        runner.run = noted
        for _ in range(2):
            load(runner, request(5), "SingleStream", mode="AccuracyOnly")
    assert len(threads) == 1
    assert threads.pop().is_alive()
