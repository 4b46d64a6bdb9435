"""Dynamic batch size: contract section 2, on the virtual clock. With the profile "none" only timeouts take time."""

import gc
import json
import threading
from types import FrameType

import numpy as np
import pytest
from onnx import helper

from poprt_sim import runtime, testing
from poprt_sim.testing import Fault, Violation
from poprt_tools import WAIT_S, Callers, adder, doubler, popef_of, rows
from poprt_tools import Compiled as Executable

TIMEOUT_US = 300.0


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset(device_time="none")
    testing.reset()


def runner(executable=None, *, batching_dim=0, timeout_us=TIMEOUT_US, **fields):
    config = runtime.RuntimeConfig()
    config.timeout_ns = int(timeout_us * 1000)
    if batching_dim is not None:
        config.batching_dim = batching_dim
    for name, value in fields.items():
        setattr(config, name, value)
    return runtime.Runner(executable or adder(), config)


def counts():
    ledger = testing.ledger()
    return ledger.runs, ledger.padded_rows, ledger.flushes


def send(target, count, first=0.0):
    inputs, outputs, expected = rows(count, first)
    target.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["O"], expected)


def caller(target, count, first=0.0):
    return lambda: send(target, count, first)


# The reference trace, contract 2.1


@pytest.mark.parametrize(
    ("count", "runs", "padded", "flushes"), [(1, 1, 3, 1), (4, 1, 0, 0), (7, 2, 1, 1), (8, 2, 0, 0), (9, 3, 3, 1)]
)
def test_one_request_alone(count, runs, padded, flushes):
    target = runner()
    begin = testing.now_us()
    send(target, count)
    assert counts() == (runs, padded, flushes)
    assert testing.now_us() - begin == flushes * TIMEOUT_US
    assert testing.ledger().real_rows == count
    assert testing.ledger().merged_runs == 0


def test_the_sample_of_the_vendors_page():
    target = runner()
    begin = testing.now_us()
    for count in (1, 4, 7):
        send(target, count)
    assert counts() == (4, 4, 2)
    assert testing.now_us() - begin == 2 * TIMEOUT_US


def test_one_row_then_two_from_another_thread_share_a_run():
    target = runner()
    callers = Callers([(0, caller(target, 1)), (100, caller(target, 2, 50))]).run().raise_errors()
    assert counts() == (1, 1, 1)
    assert testing.ledger().merged_runs == 1
    assert callers.ends == [TIMEOUT_US, TIMEOUT_US], "one timeout, from the first row on"


def test_three_rows_then_three_straddle_two_runs():
    target = runner()
    callers = Callers([(0, caller(target, 3)), (100, caller(target, 3, 50))]).run().raise_errors()
    assert counts() == (2, 2, 1)
    assert callers.ends == [100.0, 100 + TIMEOUT_US], "the first is full when the second comes; that one waits for more"
    assert testing.ledger().waits == 2
    assert testing.ledger().waited_us == 100 + TIMEOUT_US


def test_rows_that_come_after_the_timeout_are_not_merged():
    target = runner()
    callers = Callers([(0, caller(target, 1)), (TIMEOUT_US + 1, caller(target, 2, 50))]).run().raise_errors()
    assert counts() == (2, 5, 2)
    assert testing.ledger().merged_runs == 0
    assert callers.ends == [TIMEOUT_US, 2 * TIMEOUT_US + 1]


def test_rows_that_come_just_as_the_timeout_ends_are_taken_along():
    target = runner()
    Callers([(0, caller(target, 1)), (TIMEOUT_US, caller(target, 2, 50))]).run().raise_errors()
    assert counts() == (1, 1, 1)


def test_rows_that_fill_the_batch_just_as_the_timeout_ends_are_no_flush():
    target = runner()
    Callers([(0, caller(target, 1)), (TIMEOUT_US, caller(target, 3, 50))]).run().raise_errors()
    assert counts() == (1, 0, 0)


def test_a_full_batch_does_not_wait_behind_a_slower_timeout():
    target = runner(timeout_us=1e6)
    callers = Callers([(k * 10, caller(target, 1, 10 * k)) for k in range(4)]).run().raise_errors()
    assert counts() == (1, 0, 0)
    assert callers.ends == [30.0] * 4


def test_many_callers_come_out_the_same_each_time():
    """Sixteen threads, several rounds each: who merges with whom does not depend on how the threads were scheduled."""

    def once():
        testing.reset(device_time="affine:20,1")
        target = runner(adder(16))

        def body(number):
            def loop():
                for turn in range(6):
                    send(target, 1 + (number + turn) % 4, 100 * number)
                    testing.spend_us(7 * number)

            return loop

        callers = Callers([(3 * number, body(number)) for number in range(16)]).run().raise_errors()
        account = testing.ledger().to_dict()
        return callers.ends, {
            k: account[k] for k in ("runs", "real_rows", "padded_rows", "flushes", "waits", "merged_runs", "busy_us")
        }

    first = once()
    assert first[1]["real_rows"] == sum(1 + (n + t) % 4 for n in range(16) for t in range(6))
    for _ in range(4):
        assert once() == first


# Whose rows are whose


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_strangers_never_mix(seed):
    generator = np.random.default_rng(seed)
    batch = int(generator.integers(2, 9))
    target = runner(adder(batch))
    sizes = [int(size) for size in generator.integers(1, 3 * batch, 12)]
    delays = [float(delay) for delay in generator.integers(0, 900, 12)]
    plan = [(delay, caller(target, size, 1000.0 * k)) for k, (delay, size) in enumerate(zip(delays, sizes, strict=True))]
    Callers(plan).run().raise_errors()
    ledger = testing.ledger()
    assert ledger.real_rows == sum(sizes)
    assert ledger.runs * batch == ledger.real_rows + ledger.padded_rows


def test_nothing_is_written_beyond_the_callers_rows():
    target = runner()
    inputs, _, expected = rows(3)
    whole = np.full((8, 2), -7, np.float32)
    target.execute(inputs, {"O": whole[2:5]})
    np.testing.assert_array_equal(whole[2:5], expected)
    assert (np.delete(whole, [2, 3, 4], axis=0) == -7).all()


def test_padding_is_zero():
    """A model that mixes rows shows what it was padded with: the sum over the batch is that of the caller's rows."""
    nodes = [
        helper.make_node("ReduceSum", ["X", "axes"], ["S"], keepdims=1),
        helper.make_node("Expand", ["S", "shape"], ["O"]),
    ]
    constants = [helper.make_tensor("axes", 7, [1], [0]), helper.make_tensor("shape", 7, [2], [4, 2])]
    target = runner(Executable(popef_of(nodes, {"X": (4, 2)}, {"O": (4, 2)}, initializers=constants)))
    for _ in range(2):  # the second must not see rows of the first
        out = np.empty((2, 2), np.float32)
        target.execute({"X": np.array([[1, 2], [3, 4]], np.float32)}, {"O": out})
        assert out.tolist() == [[4, 6], [4, 6]]


def test_inputs_are_not_written_and_half_precision_works():
    target = runner(doubler((4, 3), dtype=np.float16))
    x = np.arange(15, dtype=np.float16).reshape(5, 3)
    x.flags.writeable = False
    out = np.zeros((5, 3), np.float16)
    target.execute({"X": x}, {"O": out})
    np.testing.assert_array_equal(out, x * 2)


def test_another_axis_than_the_first():
    target = runner(doubler((2, 4, 3)), batching_dim=1)
    x = np.arange(2 * 6 * 3, dtype=np.float32).reshape(2, 6, 3)
    out = np.zeros_like(x)
    target.execute({"X": x}, {"O": out})
    np.testing.assert_array_equal(out, x * 2)
    assert counts() == (2, 2, 1)


def test_only_bytes_count_not_shapes():
    target = runner()
    inputs, _, expected = rows(4)
    out = np.zeros(8, np.float32)
    target.execute({"X": inputs["X"].reshape(8), "Y": inputs["Y"].reshape(2, 4)}, {"O": out})
    np.testing.assert_array_equal(out, expected.reshape(8))


# Batching off, and models that cannot be batched


def test_off_by_default_and_whole_batches_run():
    target = runner(batching_dim=None)
    send(target, 4)
    send(target, 12)
    assert counts() == (4, 0, 0)
    with pytest.raises(
        RuntimeError, match=r"input 'X': expected float32 \[4, 2\], or N whole batches of it \(32 bytes each\), got"
    ):
        send(target, 6)
    assert testing.ledger().runs == 4


def test_a_tensor_without_the_batch_allows_whole_batches_only():
    nodes = [helper.make_node("ReduceSum", ["X", "axes"], ["O"], keepdims=1)]
    constants = [helper.make_tensor("axes", 7, [1], [0])]
    target = runner(Executable(popef_of(nodes, {"X": (4, 2)}, {"O": (1, 2)}, initializers=constants)))
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    out = np.zeros((2, 2), np.float32)
    target.execute({"X": x}, {"O": out})
    np.testing.assert_array_equal(out, x.reshape(2, 4, 2).sum(1))
    with pytest.raises(RuntimeError, match=r"no other number of rows, because 'O' has shape \[1, 2\], without 4 on axis 0"):
        target.execute({"X": x[:3]}, {"O": out})


def test_an_input_without_the_batch_allows_whole_batches_only():
    """The first tensor that does not fit decides, whatever those behind it look like."""
    shapes = {"X": (4, 2), "Table": (3, 2)}
    target = runner(Executable(popef_of([helper.make_node("Identity", ["X"], ["O"])], shapes, {"O": (4, 2)})))
    x, out = np.arange(16, dtype=np.float32).reshape(8, 2), f32(8, 2)
    target.execute({"X": x, "Table": f32(6, 2)}, {"O": out})
    np.testing.assert_array_equal(out, x)
    with pytest.raises(RuntimeError, match=r"no other number of rows, because 'Table' has shape \[3, 2\], without 4 on axis 0"):
        target.execute({"X": x[:3], "Table": f32(3, 2)}, {"O": out[:3]})


# What is refused, each with nothing executed


def refused(message, inputs, outputs, error=RuntimeError, **fields):
    target = runner(**fields)
    with pytest.raises(error, match=message):
        target.execute(inputs, outputs)
    assert testing.ledger().runs == 0
    assert testing.ledger().requests == 0


def f32(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"X": f32(1, 2)}, {"O": f32(1, 2)}, "expected the inputs 'X', 'Y', got 'X'"),
        ({"X": f32(1, 2), "Y": f32(1, 2), "Z": f32(1)}, {"O": f32(1, 2)}, "expected the inputs 'X', 'Y', got 'X', 'Y', 'Z'"),
        ({"X": f32(1, 2), "Y": f32(1, 2)}, {}, "expected the outputs 'O', got none"),
        (
            {"X": f32(1, 2), "Y": f32(1, 3)},
            {"O": f32(1, 2)},
            r"input 'Y': expected float32 \[n, 2\] with n >= 1 \(8 bytes a row\), got float32 \[1, 3\], 12 bytes",
        ),
        ({"X": f32(0, 2), "Y": f32(0, 2)}, {"O": f32(0, 2)}, r"input 'X': expected .*n >= 1.* got float32 \[0, 2\], 0 bytes"),
        ({"X": f32(2, 2), "Y": f32(3, 2)}, {"O": f32(2, 2)}, "input 'Y': expected 2 rows like 'X', got 3"),
        ({"X": f32(2, 2), "Y": f32(2, 2)}, {"O": f32(4, 2)}, "output 'O': expected 2 rows like 'X', got 4"),
        (
            {"X": np.zeros((2, 2)), "Y": f32(2, 2)},
            {"O": f32(2, 2)},
            r"input 'X': expected float32 \[n, 2\].* got float64 \[2, 2\]; PopRT casts nothing",
        ),
        ({"X": f32(2, 2).T[:1], "Y": f32(1, 2)}, {"O": f32(1, 2)}, "input 'X': expected a C-contiguous array, got strides"),
    ],
)
def test_arrays_that_do_not_fit(inputs, outputs, message):
    refused(message, inputs, outputs)


def test_outputs_must_be_writable_and_everything_an_array():
    out = f32(1, 2)
    out.flags.writeable = False
    refused("output 'O': expected an array that can be written", {"X": f32(1, 2), "Y": f32(1, 2)}, {"O": out})
    refused("expected a numpy.ndarray, got list", {"X": [[1.0, 2.0]], "Y": f32(1, 2)}, {"O": f32(1, 2)}, TypeError)
    refused("input: expected a dict of name and numpy.ndarray, got list", [f32(1, 2)], {"O": f32(1, 2)}, TypeError)
    refused("^output: expected a dict of name and numpy.ndarray, got list", {"X": f32(1, 2), "Y": f32(1, 2)}, [], TypeError)


def test_without_validation_wrong_sizes_are_undefined():
    target = runner(validate_io_params=False)
    with pytest.raises(Violation, match=r"\[unchecked size\] output 'O': expected 2 rows like 'X', got 1"):
        target.execute({"X": f32(2, 2), "Y": f32(2, 2)}, {"O": f32(1, 2)})
    testing.reset(device_time="none", strict=False)
    target = runner(validate_io_params=False)
    out = f32(1, 2)
    target.execute({"X": f32(2, 2) + 1, "Y": f32(2, 2) + 2}, {"O": out})
    assert out.tolist() == [[3, 3]]
    assert [record.rule for record in testing.ledger().violations] == ["unchecked size"]
    with pytest.raises(RuntimeError, match="the arrays are shorter than one compiled batch"):
        target.execute({"X": f32(0, 2), "Y": f32(0, 2)}, {"O": f32(0, 2)})
    assert testing.ledger().runs == 1


def test_without_validation_a_wrong_dtype_is_undefined():
    target = runner(validate_io_params=False)
    inputs = {"X": np.ones((2, 2), np.int32), "Y": f32(2, 2)}
    with pytest.raises(Violation, match=r"\[unchecked dtype\] input 'X': expected float32 .*, got int32 \[2, 2\]; PopRT casts"):
        target.execute(inputs, {"O": f32(2, 2)})
    testing.reset(device_time="none", strict=False)
    target = runner(validate_io_params=False)
    out = f32(2, 2)
    target.execute(inputs, {"O": out})
    assert out.view(np.int32).tolist() == [[1, 1], [1, 1]]
    assert [record.rule for record in testing.ledger().violations] == ["unchecked dtype"]


def test_inputs_that_change_while_their_request_is_in_flight():
    target = runner()
    x, y, out = f32(3, 2), f32(3, 2), f32(3, 2)
    sent = target.execute_async({"X": x, "Y": y}, {"O": out})
    y[2, 1] = 7
    with pytest.raises(Violation, match=r"\[arrays in use\] input 'Y' of the request made at .* changed before its results"):
        sent.wait()
    sent.wait()  # it has been told
    sent = target.execute_async({"X": x, "Y": y}, {"O": out})
    sent.wait()
    y[2, 1] = 8  # its results are there: the array is the caller's again
    sent.wait()
    assert out[2, 1] == 7
    assert len(testing.ledger().violations) == 1


def test_results_may_go_where_the_inputs_are():
    x = f32(3, 2) + 1
    runner().execute({"X": x, "Y": f32(3, 2) + 2}, {"O": x})
    assert (x == 3).all()
    testing.assert_clean()


# A timeout of 0: wait for ever


def test_timeout_0_and_a_remainder_is_a_deadlock_that_is_named():
    target = runner(timeout_us=0)
    send(target, 4)
    with pytest.raises(
        Violation,
        match=r"\[deadlock\] execute\(\) never returns: 'tiny' has 3 rows for a compiled batch of 4 and waits for 1 more",
    ):
        send(target, 7)
    assert counts() == (2, 0, 0)
    send(target, 8)  # what was given up on is gone: no row of it is merged
    assert counts() == (4, 0, 0)


def test_timeout_0_waits_for_other_callers():
    target = runner(timeout_us=0)
    callers = Callers([(0, caller(target, 1)), (5e6, caller(target, 3, 50))]).run().raise_errors()
    assert counts() == (1, 0, 0)
    assert callers.ends == [5e6, 5e6]


def test_threads_that_deadlock_while_another_might_come_are_told_after_the_guard():
    testing.reset(device_time="none", guard_s=0.05)
    target = runner(timeout_us=0)
    callers = Callers([(0, caller(target, 1)), (0, caller(target, 2))]).run()
    assert [type(error) for error in callers.errors] == [Violation, Violation]
    assert testing.ledger().runs == 0
    send(target, 4)


def test_the_guard_leaves_time_to_those_who_sleep():
    testing.reset(device_time="none", guard_s=20)
    target = runner(timeout_us=0)
    asleep = threading.Event()

    def late():
        asleep.wait(WAIT_S)
        send(target, 3, 50)

    other = threading.Thread(target=late)
    other.start()
    waker = threading.Timer(0.1, asleep.set)
    waker.start()
    send(target, 1)
    other.join(WAIT_S)
    waker.join(WAIT_S)
    assert counts() == (1, 0, 0)


# Async


def test_async_requests_merge_and_their_results_are_there_after_wait():
    target = runner(ring_buffer_size_multiplier=4)
    sent = [rows(count, 10.0 * count) for count in (1, 2, 3)]
    futures = [target.execute_async(inputs, outputs) for inputs, outputs, _ in sent]
    assert all((outputs["O"] == -7).all() for _, outputs, _ in sent), "nothing happens until somebody waits"
    for future in reversed(futures):
        assert future.wait() is None
        assert future.wait() is None
    for _, outputs, expected in sent:
        np.testing.assert_array_equal(outputs["O"], expected)
    assert counts() == (2, 2, 1)


def test_a_full_ring_buffer_blocks_the_sender():
    testing.reset(device_time="affine:100,0")
    target = runner(ring_buffer_size_multiplier=2)
    begin = testing.now_us()
    futures, ends = [], []
    for k in range(5):
        inputs, outputs, _ = rows(4, k)
        futures.append(target.execute_async(inputs, outputs))
        ends.append(testing.now_us() - begin)
    # Two batches fit, besides the one that the device has taken at once.
    assert ends[1] < 100
    assert ends[2] < 100
    assert ends[3] > 100
    assert ends[4] > 200
    for future in futures:
        future.wait()


def test_one_pair_of_dictionaries_may_be_sent_many_times():
    target = runner(batching_dim=None)
    inputs, outputs, expected = rows(4)
    futures = [target.execute_async(inputs, outputs) for _ in range(50)]
    for future in futures:
        future.wait()
    np.testing.assert_array_equal(outputs["O"], expected)
    assert testing.ledger().runs == 50
    assert not testing.ledger().violations


@pytest.mark.parametrize("what", ["writes an output of", "reads an output of", "writes an input of"])
def test_arrays_of_a_request_in_flight_must_not_be_used_by_another(what):
    target = runner()
    inputs, outputs, _ = rows(1)
    second, out, _ = rows(1, 5)
    if what == "writes an output of":
        out = outputs
    elif what == "reads an output of":
        second = {**second, "X": outputs["O"]}
    else:
        out = {"O": inputs["X"]}
    future = target.execute_async(inputs, outputs)
    with pytest.raises(Violation, match=rf"\[arrays in use\] this request {what} the one made at .*test_poprt_batching.py"):
        target.execute(second, out)
    future.wait()
    target.execute(second, out)  # after the wait they are free again


# Steps and overlapped I/O


def test_batches_per_step_does_not_hold_results_back():
    """EX convert_compile_and_run: synchronous calls of one batch with batches_per_step 100."""
    target = runner(adder(batches_per_step=100), batching_dim=None, timeout_us=0)
    for _ in range(7):
        send(target, 4)
    assert counts() == (7, 0, 0)


def test_a_step_costs_its_host_synchronisation_once(tmp_path):
    def took(batches_per_step):
        path = tmp_path / "profile.json"
        path.write_text(json.dumps({"step_us": 50, "affine": {"*": [10, 0]}}))
        testing.reset(device_time=str(path))
        target = runner(adder(batches_per_step=batches_per_step), batching_dim=None)
        send(target, 4 * 8)
        return testing.now_us()

    assert took(1) == 8 * 60
    assert took(4) == 2 * 50 + 8 * 10


@pytest.mark.parametrize("threads", [3, 5])
def test_overlapped_io_with_enough_requests_in_flight_and_timeout_0(threads):
    """EX simple_overlapio: threads x steps batches, a multiple of batches_per_step, and nothing ever flushes."""
    target = runner(adder(batches_per_step=16, num_io_tiles=192), batching_dim=None, timeout_us=0)

    def body():
        for _ in range(16):
            send(target, 4)

    Callers([(0, body)] * threads).run().raise_errors()
    ledger = testing.ledger()
    assert (ledger.runs, ledger.dummy_runs, ledger.flushes) == (16 * threads, 0, 0)


def test_overlapped_io_with_too_few_requests_is_a_deadlock_that_says_so():
    testing.reset(device_time="none", guard_s=0.05)
    target = runner(adder(batches_per_step=16, num_io_tiles=192), batching_dim=None, timeout_us=0)
    with pytest.raises(Violation, match=r"overlapped I/O and waits for a batch to load.*keep 3 requests in flight.*\(16\)"):
        send(target, 4)


def test_overlapped_io_pushes_a_lone_request_through_with_dummies():
    target = runner(adder(batches_per_step=16, num_io_tiles=192))
    begin = testing.now_us()
    send(target, 4)
    assert (testing.ledger().runs, testing.ledger().dummy_runs) == (1, 2)
    assert testing.now_us() - begin == 2 * TIMEOUT_US


@pytest.mark.parametrize(("second", "ends", "dummies"), [(100, (600, 900), 2), (300, (600, 900), 2), (500, (600, 1200), 3)])
def test_overlapped_io_waits_for_a_load_since_the_cycle_before(second, ends, dummies):
    """What comes while a batch is in the pipeline waits with it, and until the end of that timeout, not of one of its own."""
    target = runner(adder(batches_per_step=16, num_io_tiles=192))
    sent = []
    for count, pause in ((4, second), (1, 0)):
        inputs, outputs, expected = rows(count)
        sent.append((target.execute_async(inputs, outputs), outputs, expected))
        testing.spend_us(pause)
    for (future, outputs, expected), end in zip(sent, ends, strict=True):
        future.wait()
        assert testing.now_us() == end
        np.testing.assert_array_equal(outputs["O"], expected)
    assert (testing.ledger().runs, testing.ledger().dummy_runs) == (2, dummies)


def test_overlapped_io_runs_no_dummies_for_nobody():
    target = runner(adder(batches_per_step=16, num_io_tiles=192))
    for turn in range(1, 4):
        send(target, 4)
        assert (testing.ledger().runs, testing.ledger().dummy_runs) == (turn, 2 * turn)
        testing.spend_us(10 * TIMEOUT_US)


def test_overlapped_io_needs_no_push_at_the_end_of_a_step():
    target = runner(adder(num_io_tiles=192), timeout_us=0)  # batches_per_step 1: each step fills and empties the pipeline
    send(target, 8)
    assert (testing.ledger().runs, testing.ledger().dummy_runs) == (2, 0)


def test_overlapped_io_is_faster_with_three_requests_in_flight(tmp_path):
    """Load 10, compute 10, store 10: 30 a batch one after another, towards 10 when the stages overlap."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"exchange_us": 10, "affine": {"*": [10, 0]}}))

    def took(**fields):
        testing.reset(device_time=str(path))
        target = runner(adder(batches_per_step=12, **fields), batching_dim=None, timeout_us=0)

        def body():
            for _ in range(4):
                send(target, 4)

        return max(Callers([(0, body)] * 3).run().raise_errors().ends)

    assert took(num_io_tiles=0) == 12 * 30
    assert took(num_io_tiles=64) == (12 + 2) * 10


# Engines


def test_device_time_adds_up(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"exchange_us": 10, "load_gb_s": 1e-3, "store_gb_s": 1e-3, "affine": {"*": [5, 2]}}))
    testing.reset(device_time=str(path))
    target = runner()
    begin = testing.now_us()
    send(target, 4)
    load, compute, store = 10 + 64.0, 5 + 2 * 4.0, 10 + 32.0
    assert testing.now_us() - begin == load + compute + store
    assert testing.ledger().busy_us == {"load": load, "compute": compute, "store": store}
    begin = testing.now_us()
    send(target, 1)
    assert testing.now_us() - begin == TIMEOUT_US + load + compute + store, "padding costs what rows cost"


def test_the_timer_runs_while_the_device_waits_not_from_arrival(tmp_path):
    """Rule 12: rows that came while the device was at work begin to wait when it is done."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"affine": {"*": [1000, 0]}}))
    testing.reset(device_time=str(path))
    target = runner()
    callers = Callers([(0, caller(target, 4)), (100, caller(target, 1, 50))]).run().raise_errors()
    assert callers.ends == [1000.0, 1000 + TIMEOUT_US + 1000]


def test_the_batch_size_timeout_replaces_the_other_where_it_is_enabled():
    target = runner(is_batch_size_timeout_enabled=True, batch_size_timeout_ns=50_000)
    begin = testing.now_us()
    send(target, 1)
    assert testing.now_us() - begin == 50


def test_a_look_at_the_other_threads_leaves_nothing_to_collect():
    """A frame in a variable of its own function would keep every thread's frames alive."""
    target = runner()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        # This thread holds the machine up until it is seen to sleep.
        Callers([(0, caller(target, 1)), (0, caller(target, 1))]).run().raise_errors()
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, FrameType) and each.f_code.co_name == "_glance"]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


# Device errors


def failing(error, nth=1, **fields):
    testing.reset(device_time="none", faults=(Fault("device.run", nth, error),))
    return runner(**fields)


def test_an_error_reaches_every_request_in_the_queue_and_stays():
    target = failing("application_runtime_error: overflow", ring_buffer_size_multiplier=4)
    futures = [target.execute_async(*rows(4, k)[:2]) for k in range(3)]
    for future in futures:
        with pytest.raises(RuntimeError, match=r"^application_runtime_error: overflow$"):
            future.wait()
    with pytest.raises(
        RuntimeError, match="application_runtime_error: overflow; the IPU was not reset: make a new runner, or set auto_reset"
    ):
        send(target, 4)
    assert testing.ledger().resets == 0
    del target, futures, future
    gc.collect()
    send(runner(), 4)


@pytest.mark.parametrize("error", ["application_runtime_error: x", "recoverable_runtime_error:IPU_RESET: x"])
def test_auto_reset_brings_the_device_back_for_the_next_request(error):
    target = failing(error, nth=2, auto_reset=True)
    send(target, 4)
    with pytest.raises(RuntimeError, match=r"x$"):
        send(target, 4)
    send(target, 7)
    assert testing.ledger().resets == 1


def test_a_request_that_came_after_the_failure_is_served_after_the_reset(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"reset_us": 5000}))
    testing.reset(device_time=str(path), faults=(Fault("device.run", 1, "application_runtime_error"),))
    target = runner(auto_reset=True)
    callers = Callers([(0, caller(target, 4)), (100, caller(target, 4, 50))]).run()
    assert [str(error) for error in callers.errors] == ["application_runtime_error", "None"]
    assert callers.ends == [0.0, 5000.0]
    assert testing.ledger().resets == 1


@pytest.mark.parametrize("error", ["recoverable_runtime_error:PARTITION_RESET", "unknown_runtime_error"])
def test_what_a_reset_does_not_mend_is_not_reset(error):
    target = failing(error, auto_reset=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=error):
            send(target, 4)
    assert testing.ledger().resets == 0


def test_an_error_in_the_pipeline_reaches_all_stages():
    testing.reset(device_time="none", faults=(Fault("device.run", 3, "unknown_runtime_error"),))
    target = runner(adder(batches_per_step=8, num_io_tiles=64))
    callers = Callers([(0, caller(target, 4, k)) for k in range(3)]).run()
    assert [str(error) for error in callers.errors] == ["unknown_runtime_error"] * 3


# Threads


def test_the_gil_is_free_while_execute_blocks():
    target = runner(timeout_us=0)
    ticks = []

    def other():
        ticks.extend(range(1000))
        send(target, 3, 50)

    thread = threading.Thread(target=other)
    thread.start()
    send(target, 1)
    thread.join(WAIT_S)
    assert len(ticks) == 1000
    assert counts() == (1, 0, 0)


def test_workers_of_a_pool_merge():
    """Callers behind queues: idle workers are waited for once somebody has woken them."""
    from concurrent.futures import ThreadPoolExecutor

    target = runner(adder(8))
    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            list(pool.map(lambda k: send(target, 1, 10 * k), range(8)))
            assert counts() == (turn + 1, 0, 0)


def test_a_sleeper_that_a_caller_has_woken_is_waited_for():
    """One caller sends alone while the other sleeps, wakes it, and sends again: the two merge, however late the other comes."""
    target = runner()
    alarms = [threading.Event() for _ in range(3)]

    def waker():
        for alarm in alarms:
            send(target, 1)
            alarm.set()
            send(target, 1)

    def sleeper():
        for alarm in alarms:
            alarm.wait(WAIT_S)
            assert sum(range(100_000))  # a few milliseconds of real time, many glances
            send(target, 3, 50)

    Callers([(0, waker), (0, sleeper)]).run().raise_errors()
    assert counts() == (6, 9, 3)


def test_two_threads_without_thread_safe_are_undefined():
    target = runner(thread_safe=False, timeout_us=1000)
    send(target, 4)
    callers = Callers([(0, caller(target, 1)), (10, caller(target, 1, 50))]).run()
    assert callers.errors[0] is None
    assert isinstance(callers.errors[1], Violation)
    assert "thread_safe is False" in str(callers.errors[1])


def test_a_thread_that_spins_does_not_stop_the_others(monkeypatch):
    monkeypatch.setattr("poprt_sim._clock.GRACE_S", 0.05)
    target = runner()
    stop, spinning = threading.Event(), threading.Event()

    def spin():
        while not stop.is_set():
            spinning.set()

    thread = threading.Thread(target=spin)
    thread.start()
    spinning.wait(WAIT_S)
    try:
        send(target, 1)
        send(target, 2)
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert counts() == (2, 5, 2)
