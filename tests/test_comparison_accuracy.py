"""Entries held against a reference, through real runners: planted faults get the right sentence, and right answers none."""

import re
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch import AnyBatch, DeviceError, Gears, InputError, ModelSpec, MultipleOf, TensorSpec
from anybatch.comparison._accuracy import (
    cases_of,
    check_accuracy,
    compare_arrays,
    default_cases,
    made_up_rows,
    make_up_inputs,
)
from anybatch.comparison._entries import Contestant, Entry
from anybatch.comparison._faults import describe_moved_rows, rows_text
from anybatch.comparison._results import Case, Tolerance
from anybatch.testing import FakeBackend
from anybatch.testing.models import (
    AFFINE,
    AFFINE_TWIN,
    AXIS_MOVES,
    BY_DTYPE,
    COUPLED,
    MODELS,
    ROWS_TIMES_3,
    SCALAR,
    SEVERAL,
    SUMMED,
    WIDE,
)


class FaultyBackend(FakeBackend):
    """Plants a fault into what each launch answers.

    Args:
        fault: called with an output of all real rows of a launch, and with what it returned for the launch before (None at
            first); returns what to answer.
        change: called with a session that opened, to make it say something else.
    """

    def __init__(self, fault=lambda y, before: y, *, change=lambda session: None, **arguments):
        super().__init__(**arguments)
        self.fault, self.change = fault, change

    def open(self, model, **arguments):
        session = super().open(model, **arguments)
        execute, before = session.execute, {}

        def faulty(inputs, gear, out=None):
            found = {}
            for name, y in execute(inputs, gear, None).items():
                found[name] = self.fault(np.array(y), before.get(name))
                before[name] = y
            return found

        session.execute = faulty
        self.change(session)
        return session


@pytest.fixture
def opened():
    contestants = []

    def open_(*backends, model=AFFINE, **entry):
        for name, backend in zip("ABCDE", backends, strict=False):
            own = model
            if isinstance(backend, tuple):
                backend, own = backend
            contestants.append(Contestant(Entry(backend, name=name, model=own.proto(), **entry), None))
            contestants[-1].open()
        return contestants

    yield open_
    for contestant in contestants:
        contestant.close()


def check(contestants, cases=None, inputs=None, **options):
    reference = contestants[0]
    if cases is None:
        cases = default_cases([each.runner.batching for each in contestants if each.runner], spec=reference.runner.spec)
    elif not isinstance(cases[0], Case):
        cases = [Case(f"{rows} rows", (rows,), 100 * i) for i, rows in enumerate(cases)]
    if inputs is None:
        rows = max(made_up_rows(cases), max(case.first + case.rows for case in cases))
        inputs = make_up_inputs(reference.runner.spec, rows)
    return check_accuracy(contestants, reference, cases, inputs, **options)


def said(found, case=-1):
    """Return what was said of the last case."""
    return " | ".join(found[case].faults)


# --------------------------------------------------------------------------------------------------------------- unfaulty


@pytest.mark.parametrize("model", [model for model in MODELS if not model.combine], ids=lambda model: model.name)
def test_right_answers_pass_at_all_sizes(opened, model):
    a, b, c = opened(FakeBackend(AnyBatch()), FakeBackend(Gears((2, 5), pads=True)), FakeBackend(MultipleOf(3)), model=model)
    found = check([a, b, c])
    assert {(each.verdict, each.faults) for each in found} == {("pass", ())}
    assert {each.entry for each in found} == {"B", "C"}
    assert [each.case.name for each in found if each.entry == "B" and each.output == model.spec.outputs[0].name] == [
        "0 rows", "1 row", "2 rows", "3 rows", "4 rows", "5 rows", "6 rows", "11 rows", "ragged stream",
    ]  # fmt: skip
    assert all(each.metrics.elements > 0 for each in found if each.case.rows)
    assert not any(each.failures for each in (a, b, c))


def test_plans_are_kept_by_rows(opened):
    contestants = opened(FakeBackend(), FakeBackend(Gears((2, 4))))
    check(contestants, [3, 9])
    assert {rows: plan.rows for rows, plan in contestants[1].plans.items()} == {3: 3, 9: 9}
    assert str(contestants[1].plans[9]) == str(contestants[1].runner.plan(9))


def test_an_answer_of_no_rows_is_compared_by_its_shape(opened):
    def drop(session):
        session.spec = ModelSpec(session.spec.inputs, (TensorSpec("y", np.float32, (None, 4)),))

    found = check(opened(FakeBackend(), FaultyBackend(change=drop)), [0, 1])
    assert found[0].case.rows == 0
    assert "another shape: A gives [0, 5], B gives [0, 4]" in said(found, 0)


def test_outputs_without_rows_are_compared(opened):
    good = check(opened(FakeBackend(AnyBatch()), FakeBackend(AnyBatch()), model=SUMMED, options={"combine": {"total": "sum"}}))
    assert {(each.output, each.verdict) for each in good} == {("y", "pass"), ("total", "pass")}
    assert all(each.case.rows for each in good), "a sum of no rows was never computed"


def test_the_fault_of_an_output_without_rows_has_no_row(opened):
    backend = FaultyBackend(lambda y, _: y + 1 if y.ndim == 1 else y, batching=AnyBatch())
    found = check(opened(FakeBackend(AnyBatch()), backend, model=SUMMED), [4])
    assert [each.verdict for each in found] == ["pass", "fail"]
    assert (found[1].output, found[1].worst.row, len(found[1].worst.index)) == ("total", None, 1)


def test_an_input_without_rows_or_axes_goes_to_all(opened):
    found = check(opened("onnxruntime", FakeBackend(), model=SCALAR))
    assert {each.verdict for each in found} == {"pass"}


# ---------------------------------------------------------------------------------------------------------------- planted


def swap(y, _):
    if len(y) > 5:
        y[[4, 5]] = y[[5, 4]]
    return y


def stale(y, before):
    if before is not None and len(before) == len(y):
        y[5:7] = before[5:7]
    return y


def rows(**at):
    def fault(y, _):
        for row, value in at.items():
            y[int(row[1:])] = value
        return y

    return fault


def channel(y, _):
    y[:, 3] += 0.01
    return y


def as_float16(y, _):
    with np.errstate(over="ignore"):
        return y.astype(np.float16).astype(np.float32)


PLANTED = {
    "swapped": (swap, "rows 4 and 5 of B are swapped: row 4 of B equals row 5 of A, and vice versa"),
    "one row twice": (lambda y, _: np.concatenate([y[:5], y[4:5], y[6:]]), "row 5 of B equals row 4 of A"),
    "reversed": (lambda y, _: y[::-1].copy(), "the 8 rows of B are those of A in reverse"),
    "shifted": (lambda y, _: np.concatenate([y[:1], y[:-1]]), "rows 1 to 7 of B are rows 0 to 6 of A: shifted by 1"),
    "all one row": (lambda y, _: y[[0] * len(y)], "rows 1 to 7 of B all equal row 0 of A"),
    "stale tail": (stale, "rows 5 and 6 of B are of the request before"),
    "zeros": (rows(r5=0, r6=0, r7=0), "rows 5 to 7 of B are all zeros: never written?"),
    "NaN": (rows(r2=np.nan), "row 2 of B is all NaN"),
    "channel": (channel, "element [:, 3] of B is off by 0.01 in each of the 8 rows"),
    "factor": (lambda y, _: y * 2, "B has the values of A times a factor: is its output scaled alike?"),
    "one infinite": (lambda y, _: np.where(np.arange(40).reshape(8, 5) == 7, np.inf, y).astype(y.dtype),
                     "1 element of B is infinite where A is finite: an overflow within the model?"),
    "one column sometimes": (lambda y, _: y + np.float32(0.1) * (np.arange(40).reshape(8, 5) % 10 == 2),
                             "only element [:, 2] of B is outside the tolerance"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(opened, name):
    fault, sentence = PLANTED[name]
    found = check(opened(FakeBackend(Gears((8,))), FaultyBackend(fault, batching=Gears((8,)))), [8, 8])
    assert found[-1].verdict == "fail"
    assert found[-1].faults[0] == sentence
    assert re.search(r"outside the tolerance; the worst at \[\d, \d\] in row \d: expected .*, got .*, tolerated", said(found))
    assert found[-1].metrics.outside > 0 and found[-1].worst is not None


def test_an_overflow_of_float16_is_named(opened):
    contestants = opened(FakeBackend(), FaultyBackend(as_float16), computes_in="float16")
    inputs = {"x": make_up_inputs(AFFINE.spec, 8)["x"] * np.float32(2e4)}
    found = check(contestants, [8], inputs)
    expected = AFFINE.reference(inputs)["y"]
    beyond = int((np.abs(expected) > 65519).sum())
    assert beyond
    assert found[0].faults[0] == (
        f"overflow of float16: {beyond} elements of B are infinite where A is finite and beyond 65504, the largest float16"
    )
    assert found[0].metrics.inf_mismatches == found[0].metrics.outside == beyond


def test_saturation_at_the_largest_float16_is_named(opened):
    contestants = opened(FakeBackend(), FaultyBackend(lambda y, _: np.clip(y, -65504, 65504)))
    found = check(contestants, [8], {"x": make_up_inputs(AFFINE.spec, 8)["x"] * np.float32(2e4)})
    assert re.match(r"overflow of float16: \d+ elements of B are 65504, the largest float16, where A has more", said(found))


def test_an_output_of_another_model_is_named(opened):
    found = check(opened(FakeBackend(), (FakeBackend(), AFFINE_TWIN)))
    ragged = found[-1]
    assert re.match(
        r"B is nothing like A \(cosine -?0.\d\d, 100% of the elements outside\): is it the same model, with the same",
        ragged.faults[0],
    )
    assert {each.verdict for each in found if each.case.rows} == {"fail"}


def test_padding_that_shows_is_named(opened):
    answer = AFFINE.reference({"x": np.zeros((1, 6), np.float32)})["y"]

    def show(y, _):
        y[-2:] = answer
        return y

    found = check(opened(FakeBackend(), FaultyBackend(show)), [8])
    assert found[0].faults[0] == "rows 6 and 7 of B are what A answers to a row of padding"


def test_a_fault_in_a_stream_says_where(opened):
    found = check(opened(FakeBackend(), FaultyBackend(swap)), [Case("stream", (3, 8, 2, 8, 8))])
    assert found[0].faults[0] == (
        "request 2 of 5 (8 rows): rows 4 and 5 of B are swapped: row 4 of B equals row 5 of A, and vice versa; "
        "and likewise in 2 more requests"
    )
    assert found[0].worst.row in {7, 8, 17, 18, 25, 26}  # counted over all requests


def test_a_stale_tail_is_found_from_case_to_case(opened):
    """Requests begin at other rows than those before them, so that what was left over is not what belongs there."""
    gears = Gears((4, 8))
    found = check(opened(FakeBackend(gears), FaultyBackend(stale, batching=gears)))
    assert any("are of the request before" in fault for each in found for fault in each.faults)


def test_rows_elsewhere_are_named_too(opened):
    def swap_columns(y, _):
        y[:, [0, 2]] = y[:, [2, 0]]
        return y

    found = check(opened(FakeBackend(), FaultyBackend(swap_columns), model=AXIS_MOVES), [4])
    assert "rows 0 and 2 of B are swapped" in said(found)


def test_a_row_of_several_entries_is_one_row(opened):
    def swap_entries(y, _):
        if y.shape[-1] == 4:  # three entries a row
            y[:6] = y[[3, 4, 5, 0, 1, 2]]
        return y

    found = check(opened(FakeBackend(), FaultyBackend(swap_entries), model=ROWS_TIMES_3), [4])
    assert said(found, 0).startswith("rows 0 and 1 of B are swapped")
    assert found[1].verdict == "pass"


def test_rows_of_one_element_are_not_matched_by_chance(opened):
    """One wrong number that happens to be another row's says nothing."""

    def fault(y, _):
        if y.ndim == 1:
            y[2] = y[5]
        return y

    found = check(opened(FakeBackend(), FaultyBackend(fault), model=SEVERAL), [8])
    total = next(each for each in found if each.output == "total")
    assert total.verdict == "fail"
    assert "equals" not in " ".join(total.faults)


@pytest.mark.parametrize("name", ["int64", "int8", "uint8", "bool"])
def test_integers_must_be_equal(opened, name):
    def fault(y, _):
        y[3, 17] = not y[3, 17] if y.dtype == bool else y[3, 17] ^ 1
        return y

    found = check(opened(FakeBackend(), FaultyBackend(fault), model=BY_DTYPE[name]), [8])
    assert (found[0].metrics.differing, found[0].verdict) == (1, "fail")
    assert re.search(r"1 of 32,768 elements is not equal; the worst at \[3, 17\] in row 3: expected \d, got \d$", said(found))


def test_how_many_integers_may_differ_is_the_callers_to_say(opened):
    contestants = opened(FakeBackend(), FaultyBackend(lambda y, _: y ^ 1), model=BY_DTYPE["int64"])
    assert check(contestants, [4])[0].verdict == "fail"
    found = check(contestants, [4], tolerances={"y": (0, 1)})
    assert (found[0].verdict, found[0].tolerance) == ("pass", Tolerance(0.0, 1.0, "the caller's"))


def test_a_channel_of_an_image_is_named_as_one():
    expected = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    got = expected.copy()
    got[:, 1] += 0.5
    (found,) = compare_arrays({"y": expected}, {"y": got})
    assert found.faults[0] == "element [:, 1, :, :] of got are off by 0.5 in each of the 6 rows"


# --------------------------------------------------------------------------------------------------------------- failures


def broken(message="the card fell out"):
    return DeviceError(message, backend="fake", operation="execute")


def test_an_entry_that_fails_to_open_leaves_the_others(opened):
    contestants = opened(FakeBackend(), FakeBackend(faults={("open", 1): broken("no card")}), FakeBackend())
    assert contestants[1].failures[0].stage == "open"
    found = check(contestants, [4])
    assert [(each.entry, each.verdict) for each in found] == [("C", "pass")]


def test_an_entry_that_fails_in_the_middle_goes_on_with_the_next_case(opened):
    contestants = opened(FakeBackend(), FakeBackend(faults={("execute", 2): broken()}), FakeBackend())
    found = check(contestants, [4, 1, 8])
    assert [(each.entry, each.verdict) for each in found] == [
        ("B", "pass"), ("C", "pass"), ("B", "fail"), ("C", "pass"), ("B", "pass"), ("C", "pass"),
    ]  # fmt: skip
    assert (found[2].output, found[2].metrics) == ("", None)
    assert said(found, 2) == "B failed at a request of 1 row: DeviceError: fake: execute failed: the card fell out"
    (failure,) = contestants[1].failures
    assert (failure.stage, failure.error, failure.case) == ("accuracy", "DeviceError", "1 rows")


def test_after_three_cases_with_one_error_the_rest_is_not_sent(opened):
    backend = FakeBackend(faults={("execute", n): broken() for n in range(1, 99)})
    contestants = opened(FakeBackend(), backend)
    found = check(contestants, [1, 2, 3, 4, 5])
    assert [each.verdict for each in found] == ["fail"] * 5
    assert backend.calls["execute"] == 3
    assert len(contestants[1].failures) == 3
    assert said(found).startswith("not sent to B, which failed in 3 cases in a row: DeviceError: fake: execute failed")


def test_other_errors_in_between_do_not_count_together(opened):
    backend = FakeBackend(faults={("execute", n): broken(f"the {n}th") for n in range(1, 99)})
    check(opened(FakeBackend(), backend), [1, 2, 3, 4, 5])
    assert backend.calls["execute"] == 5


def test_a_closed_entry_is_left_alone(opened):
    contestants = opened(FakeBackend(), FakeBackend())
    contestants[1].close()
    found = check(contestants, [1, 2])
    assert "ClosedError" in said(found, 0)
    assert said(found) == "not sent to B, which was closed at 1 rows"
    assert len(contestants[1].failures) == 1


def test_where_the_reference_fails_there_is_nothing_to_compare_with(opened):
    # Its first two launches are those for the scale.
    contestants = opened(FakeBackend(faults={("execute", 3): broken()}), FakeBackend(), FakeBackend())
    found = check(contestants, [4, 8])
    assert [each.verdict for each in found] == ["fail", "fail", "pass", "pass"]
    assert said(found, 0) == (
        "there is nothing to compare with: A failed at a request of 4 rows: "
        "DeviceError: fake: execute failed: the card fell out"
    )
    assert [failure.case for failure in contestants[0].failures] == ["4 rows"]
    assert not contestants[1].failures


def test_a_failure_of_the_reference_is_noted_once(opened):
    contestants = opened(FakeBackend(faults={("execute", n): broken() for n in range(1, 99)}), FakeBackend())
    found = check(contestants, [4])
    assert [each.verdict for each in found] == ["fail"]
    assert len(contestants[0].failures) == 1


def test_rows_that_a_backend_drops_are_its_contracts_matter(opened):
    found = check(opened(FakeBackend(), FaultyBackend(lambda y, _: y[:-1])), [8])
    assert found[0].output == "" and "B failed at a request of 8 rows: ContractError:" in said(found)


def test_coupled_rows_are_refused_with_the_way_out(opened):
    a, b = opened("onnxruntime", "onnxruntime", model=COUPLED, batch_sizes=[4, 8])
    found = check([a, b], [5, 8])
    assert [each.verdict for each in found] == ["fail", "pass"]
    assert re.search(
        r"A refuses a request of 5 rows, since rows of the model influence one another at node .*: compare at sizes that it "
        r"launches exactly, which are gears 4, 8, with batch_sizes=\[...\] \(--batch-sizes\); 5 rows would be run as",
        said(found, 0),
    )


# ------------------------------------------------------------------------------------------------- what is not comparable


def with_outputs(*outputs):
    def change(session):
        session.spec = ModelSpec(session.spec.inputs, tuple(outputs))

    return change


def with_inputs(*inputs):
    def change(session):
        session.spec = ModelSpec(tuple(inputs), session.spec.outputs)

    return change


def test_other_outputs_fail_by_name(opened):
    (y,) = AFFINE.spec.outputs
    other = FaultyBackend(change=with_outputs(replace(y, name="z")))
    execute = other.open

    def rename(model, **arguments):
        session = execute(model, **arguments)
        session.execute = lambda inputs, gear, out=None: {"z": np.zeros((gear, 5), np.float32)}
        return session

    other.open = rename
    found = check(opened(FakeBackend(), other, options={"safety": "off"}), [4])
    assert {(each.output, each.verdict) for each in found} == {("y", "fail"), ("z", "fail")}
    sentences = {each.output: said([each]) for each in found}
    assert sentences["y"] == "B has no output 'y', which A has: its outputs are ['z']"
    assert sentences["z"] == "A has no output 'z', which B has: its outputs are ['y']"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": np.int32}, "output 'y' has another dtype: A gives float32, B gives int32"),
        ({"batch_axis": None, "shape": (4, 5)}, "output 'y' has its rows elsewhere: A gives float32 [rows, 5], B gives"),
    ],
)
def test_outputs_of_other_kinds_fail_by_name(opened, change, sentence):
    other = replace(AFFINE.spec.outputs[0], **change)
    backend = FaultyBackend(lambda y, _: y.astype(other.dtype), change=with_outputs(other), batching=Gears((4,)))
    found = check(opened(FakeBackend(), backend), [4])
    assert found[0].verdict == "fail"
    assert sentence in said(found)


def test_a_float16_output_is_compared_by_value(opened):
    half = replace(AFFINE.spec.outputs[0], dtype=np.float16)
    backend = FaultyBackend(lambda y, _: y.astype(np.float16), change=with_outputs(half))
    found = check(opened(FakeBackend(), backend))
    assert {each.verdict for each in found} == {"pass"}
    assert found[-1].tolerance.reason.startswith("float16")
    assert found[-1].metrics.max_abs > 0 and found[-1].metrics.max_ulp <= 1


def test_a_float16_input_gets_the_same_rows_rounded(opened):
    half = replace(AFFINE.spec.inputs[0], dtype=np.float16)
    found = check(opened(FakeBackend(), FaultyBackend(change=with_inputs(half))))
    assert {each.verdict for each in found} == {"pass"}
    assert found[-1].tolerance.reason.startswith("float16")


def test_integers_that_do_not_fit_a_narrower_input_fail(opened):
    model = BY_DTYPE["int64"]
    narrow = FaultyBackend(change=with_inputs(replace(model.spec.inputs[0], dtype=np.int32)))
    contestants = opened(FakeBackend(), narrow, model=model)
    data = {"x": np.arange(4 * 4096, dtype=np.int64).reshape(4, 4096)}
    found = check(contestants, [4], data)
    # FakeBackend computes in what it gets, so the output's dtype is another than it says: what counts is what it got.
    assert "fit" not in said(found)
    found = check(contestants, [4], {"x": data["x"] + 2**40})
    assert "InputError: 'x': expected integers that fit int32, which this entry takes, got 1099511627776 to" in said(found)


@pytest.mark.parametrize("change", [{"name": "z"}, {"dtype": np.int32}, {"shape": (None, 7)}, {"rows_per_row": 2}])
def test_other_inputs_are_refused_naming_both(opened, change):
    faulty = FaultyBackend(change=with_inputs(replace(AFFINE.spec.inputs[0], **change)))
    contestants = opened(FakeBackend(), faulty, options={"safety": "off"})  # the graph tells nothing of such tensors
    with pytest.raises(InputError, match=r"same inputs in every entry: 'A' takes 'x': float32 \[rows, 6\], 'B' takes '[xz]'"):
        check(contestants, [4])


def test_a_comparison_of_nothing_is_refused(opened):
    a, b = opened(FakeBackend(), FakeBackend())
    inputs = make_up_inputs(a.runner.spec, 4)
    case = Case("4 rows", (4,))
    with pytest.raises(InputError, match="no entry is open but the reference 'A'"):
        check_accuracy([a], a, [case], inputs)
    for cases in ([], [Case("0 rows", (0,))]):
        with pytest.raises(InputError, match="nothing to compare: expected a case with at least one row"):
            check_accuracy([a, b], a, cases, inputs)
    with pytest.raises(InputError, match=r"nothing to compare: the data has no rows: 'x' \[0, 6\]"):
        check_accuracy([a, b], a, [case], {"x": inputs["x"][:0]})
    with pytest.raises(InputError, match="'x': expected float32"):
        check_accuracy([a, b], a, [case], {"x": inputs["x"].astype(np.float64)})
    with pytest.raises(InputError, match="tolerances name"):
        check_accuracy([a, b], a, [case], inputs, tolerances={"z": 1})
    a.runner.close()
    a.runner = None
    with pytest.raises(InputError, match="the reference 'A' is not open"):
        check_accuracy([a, b], a, [case], inputs)
    assert not b.plans


def test_an_output_without_elements_compares_nothing(opened):
    empty = replace(AFFINE.spec.outputs[0], shape=(None, 0))
    backends = [FaultyBackend(lambda y, _: y[:, :0], change=with_outputs(empty)) for _ in range(2)]
    found = check(opened(*backends), [4])
    assert (found[0].verdict, found[0].metrics) == ("fail", None)
    assert said(found) == "nothing was compared: output 'y' has no elements"


def test_progress_ends_at_one(opened):
    shares = []
    check(opened(FakeBackend(), FakeBackend()), progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and 0 < shares[0] < 1


# ------------------------------------------------------------------------------------------------------- data and its rows


def test_a_data_set_on_disk_is_compared_completely_request_by_request(opened, tmp_path):
    path = tmp_path / "x.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.standard_normal((500, 6)).astype(np.float32))
    data = np.load(path, mmap_mode="r")
    seen = []

    def look(session):
        execute = session.execute

        def looking(inputs, gear, out=None):
            seen.extend(row.tobytes() for row in inputs["x"])
            return execute(inputs, gear, out)

        session.execute = looking

    contestants = opened(FakeBackend(), FaultyBackend(change=look, batching=AnyBatch()))
    cases = default_cases([each.runner.batching for each in contestants], len(data))
    stream = cases[-1]
    assert stream.rows == 500 and max(stream.requests) < 64
    found = check_accuracy(contestants, contestants[0], [stream], {"x": data})
    assert found[0].metrics.elements == 500 * 5
    assert sorted(seen) == sorted(row.tobytes() for row in data)


def test_data_and_answers_larger_than_memory_pass_through_it(opened, tmp_path):
    requests, size = 60, 16  # 1 MiB each, in and out of either entry: 180 MiB in all
    data = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (requests * size, 16384))  # of zeros: on no disk
    contestants = opened(FakeBackend(AnyBatch()), FakeBackend(AnyBatch()), model=WIDE)
    tracemalloc.start()
    try:
        found = check_accuracy(contestants, contestants[0], [Case("all", (size,) * requests)], {"x": data})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[0].metrics.elements == data.size
    assert peak < 30 << 20


def test_requests_begin_again_after_the_last_row(opened):
    contestants = opened(FakeBackend(), FakeBackend())
    data = {"x": np.arange(18, dtype=np.float32).reshape(3, 6)}
    found = check(contestants, [Case("8 rows", (8,), 2)], data)
    assert found[0].metrics.elements == 40


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6, unique=True), st.none() | st.integers(1, 5000))
def test_default_cases_hurt_and_cover_the_data(gears, data_rows):
    cases = default_cases([AnyBatch(), Gears(tuple(gears))], data_rows)
    assert cases == default_cases([Gears(tuple(gears)), AnyBatch()], data_rows)
    single = [case.requests[0] for case in cases[:-1]]
    largest = max(gears)
    assert {0, 1, largest, largest + 1, 2 * largest + 1} <= set(single)
    assert single == sorted(set(single)) and len(single) <= 16
    stream = cases[-1]
    assert (stream.name, len(stream.requests) > 1 or data_rows is not None) == ("ragged stream", True)
    assert min(stream.requests) >= 1 and len(stream.requests) <= 2100
    if data_rows is not None:
        assert stream.rows == data_rows
    total = data_rows or made_up_rows(cases)
    for before, after in pairwise(case for case in cases if case.rows):
        assert total == 1 or before.first % total != after.first % total


def test_sizes_of_the_caller_are_the_only_ones():
    cases = cases_of([4, 8], 50)
    assert [case.name for case in cases] == ["4 rows", "8 rows", "ragged stream"]
    assert set(cases[-1].requests) == {4, 8} and cases[-1].rows >= 50


def test_sizes_must_have_rows():
    with pytest.raises(InputError, match=r"expected a request of at least one row to compare, got sizes \[0\]"):
        cases_of([0])
    with pytest.raises(InputError, match="expected at least one row of data to compare with, got 0"):
        default_cases([AnyBatch()], 0)


@pytest.mark.parametrize(
    "inputs",
    [
        [TensorSpec("x", np.float32, (None, 3))],
        [TensorSpec("ids", np.int64, (None, 12))],
        [TensorSpec("ids", np.int64, (5, None), batch_axis=1), TensorSpec("mask", np.bool_, (None, 4), rows_per_row=2)],
        [TensorSpec("table", np.float32, (3,), batch_axis=None), TensorSpec("x", np.uint8, (None, 9))],
    ],
)
def test_made_up_rows_differ(inputs):
    spec = ModelSpec(tuple(inputs), (TensorSpec("y", np.float32, (None, 1)),))
    made = make_up_inputs(spec, 300)
    batched = [tensor for tensor in inputs if tensor.batch_axis is not None]
    rows = {b"".join(t.rows_of(made[t.name], row, row + 1).tobytes() for t in batched) for row in range(300)}
    assert len(rows) == 300
    assert all(set(np.unique(made[t.name])) <= {0, 1} for t in batched if t.dtype.kind in "iub")


def test_made_up_rows_of_one_bit_differ_as_far_as_they_can():
    spec = ModelSpec((TensorSpec("x", np.bool_, (None,)),), (TensorSpec("y", np.float32, (None, 1)),))
    assert set(make_up_inputs(spec, 5)["x"].tolist()) == {False, True}


# ------------------------------------------------------------------------------------------------------------------ arrays


def test_arrays_of_a_script_are_compared():
    y = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    (found,) = compare_arrays({"y": y}, {"y": y + np.float32(1e-6)}, names=("CPU", "NPU"))
    assert (found.entry, found.output, found.verdict, found.case) == ("NPU", "y", "pass", Case("6 rows", (6,)))
    (found,) = compare_arrays({"y": y}, {"y": y[[1, 0, 2, 3, 4, 5]]}, names=("CPU", "NPU"))
    assert found.faults[0] == "rows 0 and 1 of NPU are swapped: row 0 of NPU equals row 1 of CPU, and vice versa"
    (found,) = compare_arrays({"y": y}, {"y": y.astype(np.float16)})
    assert found.verdict == "pass" and found.tolerance.reason.startswith("float16")
    (found,) = compare_arrays({"y": y}, {"y": y * np.float32(1.01)}, precisions=["float16"])
    assert found.verdict == "pass"
    (found,) = compare_arrays({"y": y}, {"y": y * np.float32(1.01)}, tolerances={"y": 0.02})
    assert found.verdict == "pass"


def test_arrays_of_a_model_have_their_rows_where_it_says():
    y = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
    outputs = [TensorSpec("y", np.float32, (12, None), batch_axis=1)]
    (found,) = compare_arrays({"y": y}, {"y": y[:, ::-1]}, outputs=outputs)
    assert found.faults[0] == "the 6 rows of got are those of expected in reverse"


@pytest.mark.parametrize(
    ("expected", "got", "message"),
    [
        ({}, {}, "nothing to compare: expected has no outputs"),
        ({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, "nothing to compare: expected has no elements in any output"),
        ({"y": np.zeros(3)}, {"z": np.zeros(3)}, r"same outputs on both sides: expected has \['y'\], got has \['z'\]"),
        ({"y": np.zeros(3)}, {}, r"same outputs on both sides: expected has \['y'\], got has \[\]"),
        ({"y": np.zeros(3)}, {"y": np.zeros(4)}, "output 'y': expected gives 3 rows, got gives 4 rows"),
        (
            {"y": np.zeros((3, 2))},
            {"y": np.zeros((3, 1))},
            r"'y' has another shape: expected gives \[3, 2\], got gives \[3, 1\]",
        ),
        ({"y": np.zeros(3)}, {"y": np.zeros(3, int)}, "output 'y' has another dtype: expected gives float64, got gives int64"),
        ({"y": np.zeros(3)}, {"y": [0, 0, 0]}, "output 'y' of got: expected a NumPy array, got list"),
        ({"y": np.zeros(3), "z": np.zeros(4)}, {"y": np.zeros(3), "z": np.zeros(4)}, "same number of rows in every output"),
        ({"y": np.zeros(3)}, {"y": np.zeros(3, np.uint8)}, "another dtype"),
        ({"y": np.zeros(3, np.int8)}, {"y": np.zeros(3, np.uint8)}, "another dtype"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(expected, got, message):
    with pytest.raises(InputError, match=message):
        compare_arrays(expected, got)


def test_integers_of_other_widths_are_compared_exactly():
    big = np.array([2**40, 3])
    (found,) = compare_arrays({"y": big}, {"y": np.array([5, 3], np.int32)})
    assert (found.verdict, found.metrics.differing, found.metrics.max_abs) == ("fail", 1, 2**40 - 5)


# --------------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([5], "row 5"),
        ([5, 6], "rows 5 and 6"),
        ([6, 5, 7], "rows 5 to 7"),
        ([1, 4, 9], "rows 1, 4 and 9"),
        ([1, 4, 9, 12, 20, 30, 40], "rows 1, 4, 9, 12 and 3 more"),
    ],
)
def test_rows_as_text(rows, text):
    assert rows_text(rows) == text


@pytest.mark.parametrize(
    ("origins", "sentence"),
    [
        ({5: 4}, "row 5 of B equals row 4 of A"),
        ({1: 2, 2: 1, 5: 6, 6: 5}, "rows 1 and 2, 5 and 6 of B are swapped"),
        ({row: row ^ 1 for row in range(10)}, "rows 0 and 1, 2 and 3, 4 and 5, and 2 more pairs of B are swapped"),
        ({2: 5, 3: 6, 4: 7}, "rows 2 to 4 of B are rows 5 to 7 of A: shifted by 3"),
        ({0: 3, 3: 5, 5: 0}, "row 0 of B equals row 3 of A, row 3 of B equals row 5 of A, row 5 of B equals row 0 of A"),
        ({0: 3, 3: 5, 5: 1, 1: 0}, "row 0 of B equals row 3 of A, row 1 of B equals row 0 of A, row 3 of B equals row 5 of A, "
         "and 1 more rows equal others"),
    ],
)  # fmt: skip
def test_moved_rows_as_text(origins, sentence):
    assert describe_moved_rows(origins, list(origins), 10, "B", "A") == sentence
