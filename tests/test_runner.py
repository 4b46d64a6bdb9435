"""Runner on the fake backend: what one call promises, whatever the session is."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import warnings
import weakref
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anybatch
from anybatch import AnyBatch, ClosedError, ContractError, DeviceError, Gears, InputError, ModelError, MultipleOf, Runner
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, AXIS_1, BY_DTYPE, COUPLED, MODELS, SAME, SEVERAL, SUMMED, TABLE

BATCHINGS = [Gears((1, 4, 8)), Gears((1, 4, 8), pads=True), MultipleOf(4), AnyBatch()]
by_batching = pytest.mark.parametrize("batching", BATCHINGS, ids=str)


def open_fake(model=AFFINE, batching=None, *, backend=None, **options):
    return anybatch.open(model.onnx_bytes, backend=backend or FakeBackend(batching), **options)


def request(model, rows, seed=0):
    return model.random_inputs(np.random.default_rng(seed), rows)


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


@by_batching
@given(
    model=st.sampled_from([m for m in MODELS if not m.combine and m is not COUPLED]),
    rows=st.integers(0, 40),
    use_out=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_exactly_those_rows_come_back_in_order(batching, model, rows, use_out):
    inputs = request(model, rows, seed=rows)
    want = model.reference(inputs)
    out = {name: np.full_like(array, 1) for name, array in want.items()} if use_out else None
    with open_fake(model, batching) as runner:
        got = runner.run(inputs, out=out)
        assert_same(got, want)
        if out is not None:
            assert all(got[name] is out[name] for name in out)


@by_batching
@pytest.mark.parametrize("how", ["fortran", "strided", "read-only", "big-endian", "subclass", "misaligned", "reversed"])
def test_any_memory_layout_is_taken_and_nothing_is_written(batching, how):
    plain = request(AFFINE, 13)
    name, array = next(iter(plain.items()))
    if how == "fortran":
        given = np.asfortranarray(array)
    elif how == "strided":
        given = np.repeat(array, 2, axis=0)[::2]
    elif how == "read-only":
        given = array.copy()
        given.flags.writeable = False
    elif how == "big-endian":
        given = array.astype(array.dtype.newbyteorder(">"))
    elif how == "subclass":
        given = array.view(np.memmap)
    elif how == "reversed":
        given = array[::-1].copy()[::-1]
    else:
        memory = np.zeros(array.nbytes + 1, np.uint8)
        given = memory[1:].view(array.dtype).reshape(array.shape)
        given[...] = array
        assert not given.flags.aligned
    before = given.tobytes()
    with open_fake(AFFINE, batching) as runner:
        assert_same(runner.run({name: given}), AFFINE.reference(plain))
    assert given.tobytes() == before


@by_batching
def test_zero_rows_keep_dtype_and_trailing_shape_without_an_execution(batching):
    backend = FakeBackend(batching)
    for model in (AFFINE, SEVERAL, BY_DTYPE["int8"]):
        with open_fake(model, backend=backend) as runner:
            got = runner.run(request(model, 0))
            assert_same(got, model.reference(request(model, 0)))
            assert all(array.size == 0 for array in got.values())
    assert backend.calls["execute"] == 0


def test_whole_requests_are_handed_over_as_they_are():
    session = Recorder(AFFINE, Gears((4,)))
    inputs = request(AFFINE, 4)
    runner = Runner(session)
    outputs = runner.run(inputs)
    runner.run(inputs)
    assert session.seen[-1] is inputs[next(iter(inputs))], "no copy of the input"
    runner.close()
    assert_same(outputs, AFFINE.reference(inputs))


def test_split_requests_are_views_and_write_in_place():
    session = Recorder(AFFINE, Gears((4,)))
    inputs = request(AFFINE, 12)
    with Runner(session) as runner:
        out = {name: np.empty_like(array) for name, array in AFFINE.reference(inputs).items()}
        runner.run(inputs, out=out)
    (array,) = inputs.values()
    (result,) = out.values()
    assert all(np.shares_memory(seen, array) for seen in session.seen)
    assert all(np.shares_memory(place, result) for place in session.offered)
    assert len(session.seen) == len(session.offered) == 3


class Recorder:
    """A session that notes the arrays it gets."""

    concurrency = 1

    def __init__(self, model, batching):
        self.spec, self.batching, self.model = model.spec, batching, model
        self.seen, self.offered = [], []

    def execute(self, inputs, gear, out=None):
        self.seen += inputs.values()
        self.offered += (out or {}).values()
        results = self.model.reference(dict(inputs))
        for name, place in (out or {}).items():
            place[...] = results[name]
        return dict(results, **(out or {}))

    def close(self):
        pass


def test_padding_is_cleared_after_a_longer_request():
    """Every output row of COUPLED holds the sum over its launch, so it shows what the padding was."""
    with open_fake(COUPLED, Gears((8,)), safety="off") as runner:
        for rows in (8, 5, 1, 7, 2):
            inputs = request(COUPLED, rows, seed=rows)
            assert_same(runner.run(inputs), COUPLED.reference(inputs))


def test_repeat_and_constant_padding_reach_the_model():
    inputs = request(COUPLED, 2)
    ((name, array),) = inputs.items()
    for padding, tail in (("repeat", array[-1:]), ({name: 0.5}, np.full_like(array[-1:], 0.5))):
        want = COUPLED.reference({name: np.concatenate([array, tail, tail])})
        for pads in (False, True):
            with open_fake(COUPLED, Gears((4,), pads=pads), padding=padding, safety="off") as runner:
                for _ in range(2):
                    assert_same(runner.run(inputs), {key: value[:2] for key, value in want.items()})


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ("ones", "expected padding to be 'zero', 'repeat' or a mapping .* got 'ones'"),
        ({"nothing": 1}, "padding names 'nothing', which is no input with rows"),
        ({"x": "a"}, "expected a padding value that float32 can hold, got 'a'"),
        ({"x": 1e39}, "expected a padding value that float32 can hold, got 1e"),
        ({"x": [1, 2]}, "expected a padding value that float32 can hold"),
    ],
)
def test_bad_padding(padding, message):
    (name,) = (tensor.name for tensor in AFFINE.spec.inputs)
    if isinstance(padding, dict):
        padding = {name if key == "x" else key: value for key, value in padding.items()}
    backend = FakeBackend()
    with pytest.raises(InputError, match=message):
        open_fake(AFFINE, backend=backend, padding=padding)
    assert backend.alive == 0


def test_integer_padding_must_be_exact():
    model = BY_DTYPE["int8"]
    (name,) = (tensor.name for tensor in model.spec.inputs)
    open_fake(model, padding={name: -3}).close()
    for value in (300, 0.5):
        with pytest.raises(InputError, match="int8 can hold"):
            open_fake(model, padding={name: value})


def test_call_sugar():
    inputs = request(AFFINE, 3)
    with open_fake() as runner:
        got = runner(*inputs.values())
        np.testing.assert_allclose(got, next(iter(AFFINE.reference(inputs).values())), rtol=1e-5)
        with pytest.raises(InputError, match="expected 1 arrays, for inputs .*, got 2"):
            runner(*inputs.values(), *inputs.values())
    with open_fake(SEVERAL) as runner:
        inputs = request(SEVERAL, 3)
        assert_same(runner(*inputs.values()), SEVERAL.reference(inputs))


def test_inputs_without_rows_reach_every_launch():
    with open_fake(TABLE, Gears((2,))) as runner:
        inputs = request(TABLE, 7)
        assert_same(runner.run(inputs), TABLE.reference(inputs))


@by_batching
def test_outputs_without_rows_are_refused_where_they_would_be_wrong(batching):
    whole = {"gears": 4, "multiples": 8}.get(str(batching).split()[0], 5)
    with open_fake(SUMMED, batching) as runner:
        inputs = request(SUMMED, whole)
        assert_same(runner.run(inputs), SUMMED.reference(inputs))
        with pytest.raises(
            InputError, match="has no batch axis, so it has one value per launch, but 0 rows are not run at all"
        ):
            runner.run(request(SUMMED, 0))
        if not isinstance(batching, AnyBatch):
            with pytest.raises(InputError, match=r"has no batch axis, so it has one value per launch, but 13 rows are run as"):
                runner.run(request(SUMMED, 13))
        assert_same(runner.run(inputs), SUMMED.reference(inputs))


def test_a_request_that_is_one_gear_is_run_whole_for_outputs_without_rows():
    with open_fake(SUMMED, Gears((4, 8)), costs={4: 1.0, 8: 9.0}) as runner:  # by cost, 8 rows were two launches
        inputs = request(SUMMED, 8)
        assert_same(runner.run(inputs), SUMMED.reference(inputs))


def test_values_of_several_launches_combine():
    for model in (SUMMED, SAME):
        with open_fake(model, Gears((1, 4)), combine=model.combine) as runner:
            for rows in (1, 4, 6, 13):
                inputs = request(model, rows)
                assert_same(runner.run(inputs), model.reference(inputs))
                assert not any(how == "sum" for how in model.combine.values()) or runner.plan(rows).padded_rows == 0


@pytest.mark.parametrize(("how", "reduce"), [("max", np.max), ("min", np.min), ("mean", np.mean)])
def test_max_min_and_mean_combine(how, reduce):
    spec = anybatch.ModelSpec(
        (anybatch.TensorSpec("x", np.dtype(np.float32), (None, 2)),),
        (anybatch.TensorSpec("y", np.dtype(np.float32), (2,), None),),
    )

    class Reduces:
        batching, concurrency = Gears((1, 3)), 1

        def __init__(self):
            self.spec = spec

        def execute(self, inputs, gear, out=None):
            return {"y": reduce(inputs["x"], axis=0)}

        def close(self):
            pass

    x = np.random.default_rng(0).standard_normal((7, 2), np.float32)
    with Runner(Reduces(), combine={"y": how}) as runner:
        np.testing.assert_allclose(runner(x), reduce(x, axis=0), rtol=1e-6)


def test_a_false_declaration_is_found():
    with open_fake(SUMMED, Gears((2,)), combine=dict.fromkeys(SUMMED.combine, "same")) as runner:
        with pytest.raises(ModelError, match="declared to be the same in every launch, but it is not"):
            runner.run(request(SUMMED, 4))


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        ({"nothing": "sum"}, "combine names 'nothing', which is no output"),
        (dict.fromkeys(SUMMED.combine, "median"), "expected combine to be one of .*'median'"),
    ],
)
def test_bad_combine(combine, message):
    backend = FakeBackend()
    with pytest.raises(InputError, match=message):
        open_fake(SUMMED, backend=backend, combine=combine)
    assert backend.alive == 0


def refuse(change, message):
    return pytest.param(change, message, id=message[:40])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        refuse(lambda r: {}, "expected inputs .*, got \\[\\]: missing"),
        refuse(lambda r: {**r, "more": r["a"]}, "unknown \\['more'\\]"),
        refuse(lambda r: {"A": r["a"], "b": r["b"]}, "missing \\['a'\\] and unknown \\['A'\\]"),
        refuse(lambda r: {**r, "a": r["a"].astype(np.float64)}, "'a': expected float32 \\[rows, 4\\], got float64 \\[5, 4\\]"),
        refuse(lambda r: {**r, "a": r["a"].astype(object)}, "expected float32 \\[rows, 4\\], got object"),
        refuse(lambda r: {**r, "a": r["a"].astype(">f8")}, "got float64 in foreign byte order"),
        refuse(lambda r: {**r, "a": r["a"][0]}, "expected 2 axes, .* got 1, .*numpy.expand_dims\\(array, 0\\)"),
        refuse(lambda r: {**r, "a": r["a"][..., None]}, "expected 2 axes, .* got 3"),
        refuse(lambda r: {**r, "a": r["a"][:, :3]}, "axis 1 must be 4"),
        refuse(lambda r: {**r, "b": r["b"][:3]}, "same number of rows in every input, got: 'a' has 5, 'b' has 3"),
        refuse(lambda r: {**r, "a": r["a"].tolist()}, "expected a NumPy array of float32 \\[rows, 4\\], got list"),
        refuse(lambda r: {**r, "a": np.ma.masked_array(r["a"])}, "expected a NumPy array .* got MaskedArray"),
        refuse(lambda r: r["a"], "expected a mapping of input names to arrays, got ndarray; call runner\\(array\\)"),
    ],
)
@by_batching
def test_bad_requests_execute_nothing_and_leave_the_runner_usable(batching, change, message):
    session = Recorder(TwoInputs, batching)
    with Runner(session) as runner:
        good = {"a": np.ones((5, 4), np.float32), "b": np.ones((5, 2), np.int64)}
        with pytest.raises(InputError, match=message):
            runner.run(change(good))
        assert session.seen == []
        assert runner.stats().requests == 0
        runner.run(good)
        with pytest.raises(InputError, match=message):
            runner.run(change(good))


class TwoInputs:
    spec = anybatch.ModelSpec(
        (anybatch.TensorSpec("a", np.dtype(np.float32), (None, 4)), anybatch.TensorSpec("b", np.dtype(np.int64), (None, 2))),
        (anybatch.TensorSpec("y", np.dtype(np.float32), (None, 4)),),
    )

    @staticmethod
    def reference(inputs):
        return {"y": inputs["a"] + inputs["b"].sum(axis=1, keepdims=True).astype(np.float32)}


class FreeDimensions:
    spec = anybatch.ModelSpec(
        (
            anybatch.TensorSpec("a", np.dtype(np.float32), (None, "tokens")),
            anybatch.TensorSpec("b", np.dtype(np.float32), (None, "tokens")),
        ),
        (
            anybatch.TensorSpec("y", np.dtype(np.float32), (None, "tokens")),
            anybatch.TensorSpec("z", np.dtype(np.float32), (None, None)),
        ),
    )

    @staticmethod
    def reference(inputs):
        return {"y": inputs["a"] + inputs["b"], "z": np.repeat(inputs["a"], 2, axis=1)}


@pytest.mark.parametrize("gears", [(1, 4), (3,)])
def test_free_dimensions_may_change_from_request_to_request(gears):
    session = Recorder(FreeDimensions, Gears(gears))
    with Runner(session) as runner:
        for rows, tokens in itertools.product((0, 1, 4, 7), (3, 5, 3)):
            rng = np.random.default_rng(tokens)
            inputs = {name: rng.random((rows, tokens), np.float32) for name in "ab"}
            want = FreeDimensions.reference(inputs)
            got = runner.run(inputs)
            np.testing.assert_array_equal(got["y"], want["y"])
            if rows:
                np.testing.assert_array_equal(got["z"], want["z"])
            else:
                assert got["z"].shape == (0, 0), "nothing tells this dimension without an execution"
        with pytest.raises(InputError, match="'b': expected .*'tokens' is 3 in 'a' and 4 here"):
            runner.run({"a": np.ones((2, 3), np.float32), "b": np.ones((2, 4), np.float32)})


def test_rows_per_row_must_divide():
    spec = anybatch.TensorSpec("x", np.dtype(np.float32), (None, 2), rows_per_row=3)
    model = type("Model", (), {"spec": anybatch.ModelSpec((spec,), (spec,)), "reference": staticmethod(lambda i: i)})
    with Runner(Recorder(model, AnyBatch())) as runner:
        with pytest.raises(
            InputError, match="expected float32 \\[3\\*rows, 2\\], got float32 \\[4, 2\\]: axis 0 must be a multiple of 3"
        ):
            runner.run({"x": np.ones((4, 2), np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        refuse(lambda out, inputs: {"nothing": np.ones(1)}, "out: unknown output 'nothing'; the outputs are"),
        refuse(lambda out, inputs: {"y": out["y"].tolist()}, "out\\['y'\\]: expected a NumPy array"),
        refuse(
            lambda out, inputs: {"y": out["y"][:3]},
            "out\\['y'\\]: expected float32 \\[rows, 4\\] with 5 rows, got float32 \\[3, 4\\]",
        ),
        refuse(lambda out, inputs: {"y": out["y"].astype(np.float64)}, "got float64 \\[5, 4\\]"),
        refuse(lambda out, inputs: {"y": read_only(out["y"])}, "expected a writable array, got a read-only one"),
        refuse(lambda out, inputs: {"y": inputs["a"]}, "shares memory with 'a'"),
    ],
)
def test_bad_out(change, message):
    session = Recorder(TwoInputs, Gears((4,)))
    inputs = {"a": np.ones((5, 4), np.float32), "b": np.ones((5, 2), np.int64)}
    with Runner(session) as runner:
        with pytest.raises(InputError, match=message):
            runner.run(inputs, out=change({"y": np.empty((5, 4), np.float32)}, inputs))
        assert session.seen == []


def read_only(array):
    array.flags.writeable = False
    return array


def test_out_may_be_strided_and_partial():
    inputs = request(SEVERAL, 7)
    want = SEVERAL.reference(inputs)
    name = next(iter(want))
    place = np.zeros((2 * len(want[name]), *want[name].shape[1:]), want[name].dtype)[::2]
    with open_fake(SEVERAL, Gears((4,))) as runner:
        got = runner.run(inputs, out={name: place})
    assert got[name] is place
    assert_same(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        refuse(lambda y: {}, "expected outputs \\['y'\\], got \\[\\]"),
        refuse(lambda y: {"y": y, "z": y}, "expected outputs \\['y'\\], got \\['y', 'z'\\]"),
        refuse(lambda y: {"y": y.tolist()}, "output 'y': expected a NumPy array, got list"),
        refuse(lambda y: {"y": y.astype(np.float64)}, "output 'y': expected float32 \\[rows, 4\\] with 4 rows, got float64"),
        refuse(lambda y: {"y": y[:-1]}, "with 4 rows, got float32 \\[3, 4\\]"),
    ],
)
@pytest.mark.parametrize("rows", [3, 4, 8])
def test_a_session_that_breaks_its_contract_is_named(change, message, rows):
    class Broken(Recorder):
        def execute(self, inputs, gear, out=None):
            return change(self.model.reference(inputs)["y"])

    with Runner(Broken(TwoInputs, Gears((4,))), backend="broken") as runner:
        with pytest.raises(ContractError, match="broken: .*" + message):
            runner.run({"a": np.ones((rows, 4), np.float32), "b": np.ones((rows, 2), np.int64)})


def test_inputs_are_not_kept_alive():
    for rows in (1, 4, 7, 13):
        inputs = request(AFFINE, rows)
        with open_fake(batching=Gears((1, 4))) as runner:
            watched = [weakref.ref(array) for array in inputs.values()]
            runner.run(inputs)
            list(runner.map([inputs]))
            runner.submit(inputs).result()
            del inputs
            gc.collect()
            assert [ref() for ref in watched] == [None] * len(watched)


@by_batching
def test_stats_count_what_ran(batching):
    backend = FakeBackend(batching)
    with open_fake(backend=backend) as runner:
        rows = (0, 1, 3, 4, 13, 3)
        for count in rows:
            runner.run(request(AFFINE, count))
        stats = runner.stats()
        plans = [runner.plan(count) for count in rows]
        assert (stats.requests, stats.rows) == (len(rows), sum(rows))
        assert stats.padded_rows == sum(plan.padded_rows for plan in plans)
        assert stats.launches == Counter(launch.gear for launch in backend.launches)
        assert stats.launches == Counter(launch.gear for plan in plans for launch in plan.launches)
        assert stats.seconds > 0
    assert runner.stats() == stats, "also after close"


def test_stats_count_requests_whose_plans_are_not_kept(monkeypatch):
    monkeypatch.setattr("anybatch._runner._MAX_PLANS", 2)
    with open_fake(batching=Gears((4,))) as runner:
        for rows in (1, 2, 3, 4, 5, 5, 3):
            assert_same(runner.run(request(AFFINE, rows)), AFFINE.reference(request(AFFINE, rows)))
        stats = runner.stats()
        assert (stats.requests, stats.rows, stats.padded_rows, stats.launches) == (7, 23, 3 + 2 + 1 + 0 + 3 + 3 + 1, {4: 9})
        assert len(runner._prepared) == 2


def test_explain_and_plan_agree():
    with open_fake(batching=Gears((1, 4, 8)), costs={1: 1, 4: 1.2, 8: 9}) as runner:
        assert runner.explain(5).plan == runner.plan(5)
        assert "given by the caller" in str(runner.explain(5))
        with pytest.raises(InputError, match="rows >= 0, got -1"):
            runner.plan(-1)


@by_batching
@pytest.mark.parametrize("concurrency", [None, 1, 3])
def test_sixteen_threads_each_get_their_own_rows(batching, concurrency):
    backend = FakeBackend(batching, concurrency=concurrency)
    start = threading.Barrier(16)
    with open_fake(SEVERAL, backend=backend) as runner:

        def hammer(seed):
            start.wait(timeout=30)
            for turn in range(20):
                inputs = request(SEVERAL, (seed * 7 + turn) % 19, seed=100 * seed + turn)
                assert_same(runner.run(inputs), SEVERAL.reference(inputs))
            return 20

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(hammer, range(16))) == 320
        assert runner.stats().requests == 320
    assert concurrency is None or backend.busiest <= concurrency


def test_submit_gives_futures():
    with open_fake() as runner:
        requests = [request(AFFINE, rows, seed=rows) for rows in range(9)]
        futures = [runner.submit(inputs) for inputs in requests]
        for inputs, future in zip(requests, futures, strict=True):
            assert_same(future.result(timeout=30), AFFINE.reference(inputs))
        failing = runner.submit({})
        with pytest.raises(InputError, match="expected inputs"):
            failing.result(timeout=30)


class Held(Recorder):
    """A session whose executions wait until they are let go."""

    def __init__(self, model, batching, concurrency=1):
        super().__init__(model, batching)
        self.concurrency = concurrency
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def execute(self, inputs, gear, out=None):
        self.begun.release()
        assert self.go.wait(timeout=30)
        return super().execute(inputs, gear, out)


def test_queued_futures_can_be_cancelled_and_close_ends_the_rest():
    session = Held(AFFINE, AnyBatch())
    runner = Runner(session)
    first = runner.submit(request(AFFINE, 1))
    assert session.begun.acquire(timeout=30)
    second, third = runner.submit(request(AFFINE, 2)), runner.submit(request(AFFINE, 3))
    assert second.cancel()
    closing = threading.Thread(target=runner.close)
    closing.start()
    while not runner.closed:
        pass
    session.go.set()
    closing.join(timeout=30)
    assert_same(first.result(timeout=30), AFFINE.reference(request(AFFINE, 1)))
    with pytest.raises(CancelledError):
        second.result(timeout=30)
    with pytest.raises(ClosedError):
        third.result(timeout=30)


def test_a_callback_may_close_the_runner():
    runner = open_fake()
    closed = threading.Event()
    future = runner.submit(request(AFFINE, 1))
    future.add_done_callback(lambda _: (runner.close(), closed.set()))
    assert closed.wait(timeout=30)


@by_batching
def test_map_is_ordered_and_bounded(batching):
    drawn = []

    def requests():
        for rows in range(30):
            drawn.append(rows)
            yield request(AFFINE, rows, seed=rows)

    with open_fake(batching=batching) as runner:
        for rows, outputs in enumerate(runner.map(requests(), in_flight=3)):
            assert_same(outputs, AFFINE.reference(request(AFFINE, rows, seed=rows)))
            assert len(drawn) <= rows + 3
        assert rows == 29
        assert list(runner.map([])) == []
        with pytest.raises(InputError, match="expected in_flight >= 1, got 0"):
            runner.map([], in_flight=0)


def test_map_keeps_the_session_as_busy_as_it_allows():
    session = Held(AFFINE, AnyBatch(), concurrency=3)
    with Runner(session) as runner:
        results = runner.map(request(AFFINE, 1) for _ in range(9))
        puller = threading.Thread(target=lambda: list(results))
        puller.start()
        for _ in range(3):
            assert session.begun.acquire(timeout=30), "three executions are in progress at once"
        session.go.set()
        puller.join(timeout=30)
        assert runner.stats().requests == 9


def test_launches_of_one_request_run_side_by_side():
    session = Held(AFFINE, Gears((1, 4)), concurrency=3)
    inputs = request(AFFINE, 17)
    results = []
    with Runner(session) as runner:
        running = threading.Thread(target=lambda: results.append(runner.run(inputs)))
        running.start()
        for _ in range(3):
            assert session.begun.acquire(timeout=30), "three of the five launches are in progress at once"
        assert not session.begun.acquire(timeout=0.05), "and no more than the session takes"
        session.go.set()
        running.join(timeout=30)
    assert_same(results[0], AFFINE.reference(inputs))
    assert len(session.seen) == 5


def test_launches_of_one_request_run_one_by_one_where_the_session_takes_any_number():
    session = Held(AFFINE, Gears((1, 4)), concurrency=None)
    with Runner(session) as runner:
        running = threading.Thread(target=runner.run, args=(request(AFFINE, 17),))
        running.start()
        assert session.begun.acquire(timeout=30)
        assert not session.begun.acquire(timeout=0.05)
        session.go.set()
        running.join(timeout=30)


def test_requests_of_several_launches_cannot_block_one_another():
    """All threads of the pool run requests whose launches want threads of the same pool."""
    backend = FakeBackend(Gears((1, 4)), concurrency=2)
    with open_fake(backend=backend) as runner:
        requests = [request(AFFINE, 23, seed=turn) for turn in range(40)]
        futures = [runner.submit(inputs) for inputs in requests]
        for inputs, future in zip(requests, futures, strict=True):
            assert_same(future.result(timeout=60), AFFINE.reference(inputs))
    assert backend.busiest <= 2


def test_a_failed_launch_stops_those_beside_it_and_its_error_is_raised():
    error = DeviceError("no", backend="fake", operation="execute")
    backend = FakeBackend(Gears((1, 4)), concurrency=3, faults={("execute", 2): error})
    with open_fake(backend=backend) as runner:
        with pytest.raises(DeviceError) as caught:
            runner.run(request(AFFINE, 400))
        assert caught.value is error
        assert len(backend.launches) <= 4, "of a hundred, those that had begun"
        assert_same(runner.run(request(AFFINE, 9)), AFFINE.reference(request(AFFINE, 9)))


def test_values_of_launches_side_by_side_combine_in_the_order_of_rows():
    """Floats add up to other last bits in another order."""
    backend = FakeBackend(Gears((1, 2)), concurrency=4)
    inputs = request(SUMMED, 41)
    with open_fake(SUMMED, backend=backend, combine=SUMMED.combine) as runner:
        first = runner.run(inputs)
        for _ in range(20):
            for name, array in runner.run(inputs).items():
                assert array.tobytes() == first[name].tobytes()


def test_map_raises_an_error_in_its_place_and_stops():
    drawn = []

    def requests():
        for turn in range(100):
            drawn.append(turn)
            yield {} if turn == 5 else request(AFFINE, 1, seed=turn)

    with open_fake() as runner:
        results = runner.map(requests(), in_flight=4)
        got = [next(results) for _ in range(5)]
        assert len(got) == 5
        with pytest.raises(InputError, match="expected inputs"):
            next(results)
        assert len(drawn) <= 10
        with pytest.raises(StopIteration):
            next(results)
        runner.run(request(AFFINE, 1))


def test_map_yields_what_came_before_an_error_of_its_source():
    def requests():
        yield request(AFFINE, 1)
        yield request(AFFINE, 2)
        raise OSError("the disk is gone")

    with open_fake() as runner:
        results = runner.map(requests(), in_flight=8)
        assert [len(next(iter(next(results).values()))) for _ in range(2)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)


def test_leaving_map_early_cancels_what_is_queued():
    session = Recorder(AFFINE, AnyBatch())
    with Runner(session) as runner:
        for _ in runner.map((request(AFFINE, 1) for _ in range(1000)), in_flight=4):
            break
        gc.collect()
        assert len(session.seen) <= 5


def test_map_after_the_runner_was_closed_in_the_middle():
    runner = open_fake()
    results = runner.map(request(AFFINE, 1) for _ in range(10))
    next(results)
    runner.close()
    with pytest.raises(ClosedError):
        list(results)


def test_errors_of_the_device_reach_the_caller_and_the_runner_stays_usable():
    failure = DeviceError("no answer", backend="fake", operation="execute", status=507011)
    backend = FakeBackend(Gears((4,)), faults={("execute", 2): failure})
    with open_fake(backend=backend) as runner:
        with pytest.raises(DeviceError, match=r"fake: execute failed \(status 507011\): no answer") as caught:
            runner.run(request(AFFINE, 8))
        assert (caught.value.backend, caught.value.operation, caught.value.status) == ("fake", "execute", 507011)
        assert runner.stats().requests == 0
        for rows in (3, 8):
            assert_same(runner.run(request(AFFINE, rows)), AFFINE.reference(request(AFFINE, rows)))
    assert backend.alive == 0


def test_close_waits_for_calls_in_progress_and_refuses_new_ones():
    session = Held(AFFINE, AnyBatch())
    runner = Runner(session, backend="held")
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(runner.run, request(AFFINE, 2))
        assert session.begun.acquire(timeout=30)
        closing = pool.submit(runner.close)
        while not runner.closed:
            pass
        assert not closing.done()
        for use in (lambda: runner.run(request(AFFINE, 1)), lambda: runner.submit({}), lambda: runner.map([])):
            with pytest.raises(ClosedError, match=r"<Runner on held, any batch size, closed>: \w+\(\) after close\(\)"):
                use()
        session.go.set()
        assert_same(call.result(timeout=30), AFFINE.reference(request(AFFINE, 2)))
        closing.result(timeout=30)
    runner.close()


def test_a_runner_left_open_warns_and_closes():
    backend = FakeBackend()
    runner = open_fake(backend=backend)
    watched = [runner]
    del runner
    with pytest.warns(ResourceWarning, match="<Runner on fake, gears 1, 4, 8, open> was left open"):
        watched.clear()
    assert backend.alive == 0


def test_a_runner_left_open_after_submit_warns_as_well():
    """Its idle threads must not keep it alive."""
    backend = FakeBackend()
    watched = [open_fake(backend=backend)]
    watched[0].submit(request(AFFINE, 1)).result(timeout=30)
    list(watched[0].map([request(AFFINE, 1)]))

    def drop():
        watched.clear()
        deadline = time.monotonic() + 30
        while backend.alive and time.monotonic() < deadline:  # a worker may still be letting go of the last request
            gc.collect()

    with pytest.warns(ResourceWarning, match="was left open"):
        drop()
    assert backend.alive == 0


def test_a_runner_that_was_never_made_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="policy"):
            Runner(Recorder(AFFINE, AnyBatch()), policy="best")
        gc.collect()


def test_an_error_while_closing_is_raised_once_and_the_runner_is_closed():
    backend = FakeBackend(faults={("close", 1): DeviceError("stuck", backend="fake", operation="close")})
    runner = open_fake(backend=backend)
    with pytest.raises(DeviceError, match="stuck"):
        runner.close()
    assert runner.closed
    runner.close()


def test_repr_tells_backend_batching_and_state():
    with open_fake() as runner:
        assert repr(runner) == "<Runner on fake, gears 1, 4, 8, open>"
        assert (runner.spec, runner.batching) == (AFFINE.spec, Gears((1, 4, 8)))
    assert repr(runner).endswith("closed>")


def test_a_session_without_concurrency_is_refused():
    session = FakeBackend(concurrency=0).open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    with pytest.raises(ContractError, match="fake: expected a concurrency of at least 1, or None, got 0"):
        Runner(session, backend="fake")
    session.close()


def test_rows_must_agree_also_between_shapes_seen_before():
    session = Recorder(TwoInputs, AnyBatch())
    with Runner(session) as runner:
        requests = {n: {"a": np.ones((n, 4), np.float32), "b": np.ones((n, 2), np.int64)} for n in (3, 5)}
        for good in requests.values():
            runner.run(good)
        session.seen.clear()
        with pytest.raises(InputError, match="same number of rows in every input, got: 'a' has 5, 'b' has 3"):
            runner.run({"a": requests[5]["a"], "b": requests[3]["b"]})
        assert session.seen == []


@by_batching
def test_sessions_get_contiguous_aligned_native_arrays_whatever_came(batching):
    session = Recorder(AFFINE, batching)
    ((name, plain),) = request(AFFINE, 8).items()
    memory = np.zeros(plain.nbytes + 1, np.uint8)
    misaligned = memory[1:].view(plain.dtype).reshape(plain.shape)
    misaligned[...] = plain
    with Runner(session) as runner:
        runner.run({name: plain})
        for odd in (np.asfortranarray(plain), plain[::-1], misaligned, plain.astype(">f4")):
            runner.run({name: odd})
    assert len(session.seen) >= 5
    for array in session.seen:
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.dtype.isnative


@by_batching
def test_places_offered_to_sessions_are_contiguous(batching):
    for model in (AFFINE, AXIS_1):
        session = Recorder(model, batching)
        with Runner(session) as runner:
            for rows in (4, 8, 13):
                inputs = request(model, rows)
                assert_same(runner.run(inputs), model.reference(inputs))
        assert all(place.flags.carray for place in session.offered)


def test_results_of_padded_launches_keep_no_padding_alive():
    with open_fake(batching=Gears((8,))) as runner:
        for array in runner.run(request(AFFINE, 3)).values():
            assert array.base is None
            assert len(array) == 3


def test_leaving_map_cancels_what_is_queued_and_waits_for_what_runs(monkeypatch):
    waiting, real = threading.Event(), anybatch._pipeline.wait
    monkeypatch.setattr("anybatch._pipeline.wait", lambda futures: (waiting.set(), real(futures)))

    class SecondWaits(Recorder):
        begun, go = threading.Event(), threading.Event()

        def execute(self, inputs, gear, out=None):
            if self.seen:
                self.begun.set()
                assert self.go.wait(timeout=30)
            return super().execute(inputs, gear, out)

    session = SecondWaits(AFFINE, AnyBatch())
    with Runner(session) as runner:
        results = runner.map((request(AFFINE, 1) for _ in range(9)), in_flight=4)
        next(results)
        assert session.begun.wait(timeout=30)
        leaving = threading.Thread(target=results.close)
        leaving.start()
        assert waiting.wait(timeout=30)
        assert leaving.is_alive(), "it waits for the launch in progress"
        session.go.set()
        leaving.join(timeout=30)
        assert len(session.seen) == 2, "what had not begun never ran"
