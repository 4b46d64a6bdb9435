"""Trials: every kind of influence that is planted is found, by the experiment for it; what only differs in last bits is not."""

import json
from itertools import count
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anybatch import AnyBatch, ClosedError, DeviceError, Gears, InputError, ModelSpec, MultipleOf, TensorSpec
from anybatch._trial import EXPERIMENTS, try_rows
from anybatch.testing import MODELS, FakeBackend
from anybatch.testing.models import AFFINE, AXIS_1, BY_DTYPE, ROWS_TIMES_3, SAME, SCALAR, SEVERAL, SUMMED

GEARS = Gears((1, 4, 8))
PADS = Gears((1, 4, 8), pads=True)
BATCHINGS = [GEARS, PADS, MultipleOf(4), AnyBatch()]
F32 = np.dtype(np.float32)


def open_fake(model=AFFINE, batching=GEARS):
    return FakeBackend(batching).open(model.onnx_bytes, device=0, batch_sizes=None, options={})


def attempt(session, **options):
    """A trial that ends when all is tried, however slow the machine is."""
    return try_rows(session.execute, session.spec, session.batching, **{"clock": lambda: 0.0, **options})


class Spoilt:
    """A healthy session whose results are spoilt: `spoil(self, x, y, gear)` returns what comes back instead of y."""

    def __init__(self, spoil, model=AFFINE, batching=GEARS):
        self.session = open_fake(model, batching)
        self.spec, self.batching = self.session.spec, batching
        self.spoil = spoil
        self.memory: Any = None
        self.rows: Any = None  # of the first launch

    def execute(self, inputs, gear, out=None):
        name, answer = self.spec.inputs[0].name, self.spec.outputs[0].name
        x = inputs[name]
        self.rows = x.copy() if self.rows is None else self.rows
        results = self.session.execute(inputs, gear, out)
        with np.errstate(all="ignore"):
            y = np.asarray(self.spoil(self, x, results[answer], gear))
        return {**results, answer: y.astype(results[answer].dtype)}


class Computed:
    """A session of one input and outputs that a function computes from it: `compute(x, gear)` returns them by name."""

    def __init__(self, compute, outputs, batching=GEARS, dtype=F32, width=6):
        self.spec = ModelSpec((TensorSpec("x", dtype, (None, width)),), outputs)
        self.batching = batching
        self.compute = compute

    def execute(self, inputs, gear, out=None):
        with np.errstate(all="ignore"):
            return self.compute(inputs["x"], gear)


# ------------------------------------------------------------------------------------------------------------- what is found

PLANTED = {}


def planted(experiment, batching=GEARS, model=AFFINE, rows=None):
    """Register an influence, the experiment that must find it, and how many rows the smallest example has."""

    def register(spoil):
        PLANTED[spoil.__name__] = (spoil, experiment, batching, model, rows)
        return spoil

    return register


@planted("companions", rows=(4, 4))
def mean_over_rows(session, x, y, gear):
    return y - y.mean(axis=0)


@planted("companions", AnyBatch(), rows=(2, 2))
def softmax_over_rows(session, x, y, gear):
    e = np.exp(y - y.max(axis=0))
    return e / e.sum(axis=0)


@planted("companions", rows=(4, 4))
def a_thousandth_of_the_others(session, x, y, gear):
    return y * (1 + 1e-3 * np.tanh(x.mean()))


@planted("companions", model=AXIS_1)
def rows_on_axis_1_that_mix(session, x, y, gear):
    return y + 1e-3 * y.sum(axis=1, keepdims=True)


@planted("companions", model=ROWS_TIMES_3)
def heads_of_several_rows_that_mix(session, x, y, gear):
    return y + 1e-3 * y[::-1]


@planted("companions")
def quantised_by_the_largest_of_all_rows(session, x, y, gear):
    step = np.abs(y).max() / 127
    return np.round(y / step) * step


@planted("large")
def a_billionth_of_the_others(session, x, y, gear):
    return y + 1e-9 * x.sum()


@planted("large", model=BY_DTYPE["float16"])
def a_ten_thousandth_of_the_others_in_float16(session, x, y, gear):
    return y.astype(np.float32) + 1e-4 * x.astype(np.float32).mean(axis=1).sum()


@planted("large", model=BY_DTYPE["bfloat16"])
def a_ten_thousandth_of_the_others_in_bfloat16(session, x, y, gear):
    return y.astype(np.float32) + 1e-4 * x.astype(np.float32).mean(axis=1).sum()


@planted("NaN", rows=(4, 4))
def nothing_times_the_others(session, x, y, gear):
    return y + 0 * x.sum()


@planted("Inf")
def nothing_times_the_others_but_for_nan(session, x, y, gear):
    return y + 0 * np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf).sum()


@planted("zeros")
def division_by_empty_rows(session, x, y, gear):
    return y / (1 + (~x.any(axis=1)).sum())


@planted("repeats")
def equal_rows_answered_once(session, x, y, gear):
    first = [next(j for j in range(len(x)) if x[j].tobytes() == x[i].tobytes()) for i in range(len(x))]
    return np.where((np.arange(len(x)) == first)[:, None], y, 0)


@planted("position", rows=(4, 4))
def position_encoding(session, x, y, gear):
    return y + 1e-3 * np.arange(len(y))[:, None]


@planted("position")
def last_row(session, x, y, gear):
    y = y.copy()
    y[-1] *= 1.001 if len(y) > 1 else 1
    return y


@planted("position", MultipleOf(4))
def second_batch_of_a_multiple(session, x, y, gear):
    return y + (np.arange(len(y)) >= 4)[:, None]


@planted("order")
def place_of_one_row_only(session, x, y, gear):
    return y + np.where(np.abs(x - session.rows[3]).max(axis=1) < 0.01, np.arange(len(x)), 0)[:, None]


@planted("size", rows=(1, 4))
def number_of_rows(session, x, y, gear):
    return y * (1 + 1e-3 * gear)


@planted("size", AnyBatch(), rows=(1, 2))
def one_over_the_number_of_rows(session, x, y, gear):
    return y / len(y)


@planted("size", rows=(1, 4))
def another_answer_at_gear_4(session, x, y, gear):
    return y + 0.01 * (gear == 4)


@planted("split", Gears((1, 8)), rows=(1, 8))
def one_row_wrong_when_alone(session, x, y, gear):
    return y + (gear == 1 and bool((x == session.rows[3]).all()))


@planted("history", PADS, rows=(1, 1))
def left_over_tail(session, x, y, gear):
    if session.memory is None or len(session.memory) < 8:
        session.memory = np.zeros((8, x.shape[1]), x.dtype)
    session.memory[: len(x)] = x
    return y + 1e-3 * session.memory[len(x) : gear].sum()


@planted("history")
def what_ran_before(session, x, y, gear):
    before, session.memory = session.memory, x[0, 0]
    return y if before is None else y + 1e-3 * before


@planted("short", PADS, rows=(4, 1))
def padding_by_the_session(session, x, y, gear):
    return y + 1e-3 * (gear - len(x))


@pytest.mark.parametrize("name", PLANTED)
def test_planted_influence_is_found_by_its_experiment(name):
    spoil, experiment, batching, model, rows = PLANTED[name]
    session = Spoilt(spoil, model, batching)
    trial = attempt(session)
    assert trial.verdict == "coupled" and trial.complete and trial.error is None, trial
    example = trial.outputs[0].example
    assert example.experiment == experiment, trial
    if rows:
        assert (len(example.one.rows), len(example.other.rows)) == rows, trial
    # Whoever launches the same gets the same.
    first, again = session.spec.outputs[0], Spoilt(spoil, model, batching)
    again.rows, again.memory = session.rows, session.memory
    if experiment != "history":
        for launch, inputs, answer in (
            (example.one, example.one_inputs, example.expected),
            (example.other, example.other_inputs, example.got),
        ):
            whole = again.execute(inputs, launch.gear)[first.name]
            np.testing.assert_array_equal(first.rows_of(whole, launch.position, launch.position + 1), answer)
    apart = abs(float(example.expected[example.element]) - float(example.got[example.element]))
    assert apart > example.tolerance or not np.isfinite(apart)
    assert example.cause in str(example) and str(example) in trial.outputs[0].reason


def test_every_experiment_is_needed():
    assert {experiment for _, experiment, *_ in PLANTED.values()} | {"noise"} == set(EXPERIMENTS)


def test_noise_is_needed_where_the_caller_has_one_row():
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 6)).astype(np.float32)}
    assert attempt(Spoilt(a_thousandth_of_the_others), inputs=inputs).outputs[0].example.experiment == "noise"


def test_smallest_example_names_the_one_row_that_did_it():
    example = attempt(Spoilt(nothing_times_the_others)).outputs[0].example
    assert (example.one.gear, example.other.gear) == (4, 4)
    assert example.one.rows[1:] == ("zeros",) * 3
    assert example.other.rows[1:] == ("NaN", "zeros", "zeros")
    assert example.one.rows[0] == example.other.rows[0] == f"row {example.row}"
    assert example.cause == "what lies beside it, at place 1: NaN instead of zeros"
    assert np.isnan(example.got[example.element])
    assert np.isnan(example.other_inputs["x"][1]).all()
    assert "expected" in str(example) and "got nan" in str(example)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (position_encoding, "its place: 1 instead of 0"),
        (number_of_rows, "the size of the launch: 4 instead of 1"),
        (what_ran_before, "what the launch before it held: large instead of zeros"),
    ],
)
def test_cause_in_words(spoil, cause):
    assert attempt(Spoilt(spoil)).outputs[0].example.cause == cause


def test_influence_that_needs_two_rows_keeps_both():
    def two_rows_of_nan(session, x, y, gear):
        return y + (np.isnan(x).all(axis=1).sum() == 2)

    example = attempt(Spoilt(two_rows_of_nan)).outputs[0].example
    assert example.experiment == "NaN"
    assert example.other.rows.count("NaN") == 2


def test_what_lies_beside_needlessly_is_given_back():
    def row_0_answers_to_place_5(session, x, y, gear):
        y = y.copy()
        y[0] += np.isnan(x[5]).any() if gear == 8 else 0
        return y

    example = attempt(Spoilt(row_0_answers_to_place_5)).outputs[0].example
    assert [i for i, row in enumerate(example.other.rows) if row == "NaN"] == [5]
    assert example.cause == "what lies beside it, at place 5: NaN instead of zeros"


def test_an_answer_whose_shape_depends_on_the_others_is_found():
    def as_long_as_the_longest(x, gear):
        return {"y": np.zeros((len(x), int(np.nanmax(np.abs(np.nan_to_num(x)).clip(0, 9)))), np.float32)}

    session = Computed(as_long_as_the_longest, (TensorSpec("y", F32, (None, None)),))
    trial = attempt(session)
    assert trial.verdict == "coupled"
    assert "expected shape [1, " in trial.outputs[0].reason


def test_only_the_spoilt_output_is_coupled():
    class Second(Spoilt):
        def execute(self, inputs, gear, out=None):
            results = self.session.execute(inputs, gear)
            return {**results, "mixed": results["mixed"] + results["mixed"].mean()}

    trial = attempt(Second(None, SEVERAL))
    assert [output.verdict for output in trial.outputs] == ["no influence seen", "coupled", "no influence seen"]


def test_output_without_rows_must_not_change_with_them():
    trial = attempt(open_fake(SUMMED))
    assert [output.verdict for output in trial.outputs] == ["no influence seen", "coupled"]
    example = trial.outputs[1].example
    assert example.row is None and example.experiment == "companions"
    assert "it answers to what lies beside it" in trial.outputs[1].reason


def test_output_without_rows_that_changes_with_their_number():
    class Count(Spoilt):
        def execute(self, inputs, gear, out=None):
            results = self.session.execute(inputs, gear)
            return {**results, "doubled": results["doubled"] + np.float32(gear)}

    trial = attempt(Count(None, SAME))
    assert trial.outputs[1].example.experiment == "size"


def test_output_that_is_declared_to_combine_is_not_tried():
    session = open_fake(SUMMED)
    spec = session.spec
    total = TensorSpec("total", F32, (3,), batch_axis=None, combine="sum")
    trial = try_rows(session.execute, ModelSpec(spec.inputs, (spec.outputs[0], total)), GEARS, clock=lambda: 0.0)
    assert [output.verdict for output in trial.outputs] == ["no influence seen", "unknown"]
    assert "declared to combine by 'sum'" in trial.outputs[1].reason


def test_offered_memory_that_is_not_written_is_found():
    class Unwritten(Spoilt):
        def execute(self, inputs, gear, out=None):
            results = self.session.execute(inputs, gear)
            if out is None:
                return results
            out["y"][:-1] = results["y"][:-1]
            return out

    example = attempt(Unwritten(None)).outputs[0].example
    assert example.experiment == "history"


def test_integers_that_follow_the_others_are_found():
    def above_the_mean(x, gear):
        return {"above": x[:, 0] > np.nanmean(x[:, 0])}

    trial = attempt(Computed(above_the_mean, (TensorSpec("above", np.bool_, (None,)),)))
    assert trial.outputs[0].example.experiment in ("companions", "noise", "zeros", "repeats")  # as the mean happens to move


def test_integer_inputs_that_mix_are_found():
    def mixed(x, gear):
        return {"y": (x @ np.arange(6)) + x.sum()}

    session = Computed(mixed, (TensorSpec("y", np.int64, (None,)),), dtype=np.dtype(np.int64))
    assert attempt(session).outputs[0].example.experiment == "companions"


# ---------------------------------------------------------------------------------------------------------- what is not blamed


@pytest.mark.parametrize("batching", BATCHINGS, ids=str)
@pytest.mark.parametrize("model", [model for model in MODELS if model is not SUMMED], ids=lambda model: model.name)
def test_independent_models_are_not_blamed(model, batching):
    trial = attempt(open_fake(model, batching))
    assert trial.verdict == "no influence seen" and trial.complete, trial
    assert all(output.compared > 100 and output.example is None for output in trial.outputs)
    assert "were alike" in trial.outputs[0].reason


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [None, (1, 2, 4, 8)])
@pytest.mark.parametrize("model", [AFFINE, AXIS_1, ROWS_TIMES_3, SCALAR], ids=lambda model: model.name)
def test_onnxruntime_is_not_blamed(model, sizes, threads):
    import anybatch

    options = {"session_options": {"intra_op_num_threads": threads}, "batch_axis": model.batch_axis}
    with anybatch.open(
        model.proto(), backend="onnxruntime", batch_sizes=sizes, rows_per_row=model.rows_per_row, **options
    ) as runner:
        trial = try_rows(runner._execute, runner.spec, runner.batching, clock=lambda: 0.0)
    assert trial.verdict == "no influence seen" and trial.complete, trial


@pytest.mark.parametrize(
    "batching", [MultipleOf(1), MultipleOf(3), MultipleOf(16), Gears((1,)), Gears((2, 3)), Gears((64,))], ids=str
)
def test_sizes_of_every_kind_are_tried(batching):
    session = open_fake(batching=batching)
    trial = attempt(session)
    assert trial.verdict == "no influence seen" and trial.complete, trial
    if batching != Gears((1,)):
        coupled = attempt(Spoilt(mean_over_rows, batching=batching))
        assert coupled.outputs[0].example.experiment == "companions"
        assert len(coupled.outputs[0].example.other.rows) <= 64
    # Every row whose answers are compared had one at first.
    first = session._backend.launches[0]
    assert first.rows == first.gear >= min(8, max(getattr(batching, "sizes", (8,))))


def sums_in_another_order(x, gear, dtype=np.float32):
    """A dot product whose additions come in an order that depends on the size and the place."""
    weights = np.random.default_rng(0).standard_normal((x.shape[1], 5)).astype(dtype)
    y = np.zeros((len(x), 5), dtype)
    for row in range(len(x)):
        for k in np.random.default_rng([gear, row]).permutation(x.shape[1]):
            y[row] += x[row, k].astype(dtype) * weights[k]
    return y


SCORES = TensorSpec("y", F32, (None, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["float32", "float16", "bfloat16"])
def test_another_order_of_additions_is_not_blamed_however_finely_it_adds(dtype):
    def compute(x, gear):
        return {"y": sums_in_another_order(x, gear, dtype).astype(np.float32)}

    trial = attempt(Computed(compute, (SCORES,), width=40))
    assert trial.verdict == "no influence seen", trial
    assert 0 < trial.outputs[0].closest <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_another_order_of_additions_is_not_blamed_where_inputs_are_integers(dtype):
    """No input can be changed a little; the last value is nothing but what two orders differ by."""

    def compute(x, gear):
        y = sums_in_another_order(x, gear, dtype)
        y[:, 4] = y[:, 3] - sums_in_another_order(x, gear + 1, dtype)[:, 3]
        return {"y": y.astype(np.float32)}

    trial = attempt(Computed(compute, (SCORES,), dtype=np.dtype(np.int64), width=40))
    assert trial.verdict == "no influence seen", trial


def test_class_numbers_that_flip_with_last_bits_are_not_blamed():
    """Scores in bfloat16 flip classes from size to size; the classes come alone, so that no float tells why."""
    outputs = (TensorSpec("class", np.int64, (None,)), TensorSpec("above", np.bool_, (None, 5)))

    classes = {}

    def compute(x, gear):
        y = sums_in_another_order(x, gear, ml_dtypes.bfloat16)
        for row, scores in zip(x, y, strict=True):
            classes.setdefault(row.tobytes(), set()).add(int(np.argmax(np.nan_to_num(scores.astype(np.float32)))))
        return {"class": np.argmax(y, axis=1), "above": y > 0.0}

    for seed in range(100, 103):
        trial = attempt(Computed(compute, outputs, width=40), seed=seed)
        assert trial.verdict != "coupled", trial
    assert any(len(seen) > 1 for seen in classes.values()), "no class ever flipped, so nothing was shown"


def test_a_step_that_last_bits_can_cross_is_explained():
    """Each row has one value so near a step that another size is on its other side; a changed input shows that, too."""
    x = np.random.default_rng(1).uniform(0.1, 0.9, (8, 6))
    x[:, 2] = (np.arange(8) + 20.5) / 50 / (1 + 2e-7 * 6)

    def compute(x, gear):
        y = x[:, :5].astype(np.float64) * (1 + 2e-7 * gear)
        return {"steps": np.nan_to_num(np.round(50 * y)).astype(np.int64), "y": y.astype(np.float32)}

    session = Computed(compute, (TensorSpec("steps", np.int64, (None, 5)), SCORES))
    trial = attempt(session, inputs={"x": x.astype(np.float32)})
    assert trial.verdict == "no influence seen", trial
    assert trial.outputs[0].explained and "their own last bits change as much" in trial.outputs[0].reason


def test_steps_in_floats_are_not_blamed():
    def compute(x, gear):
        return {"y": np.round(4 * sums_in_another_order(x, gear, np.float16)).astype(np.float32)}

    trial = attempt(Computed(compute, (SCORES,), width=40))
    assert trial.verdict == "no influence seen", trial


def test_a_little_noise_from_launch_to_launch_is_not_blamed():
    rng = np.random.default_rng(5)

    def compute(x, gear):
        y = x[:, :5] * np.float32(3)
        return {"y": (y * (1 + 1e-6 * rng.standard_normal(y.shape))).astype(np.float32)}

    trial = attempt(Computed(compute, (SCORES,)))
    assert trial.verdict == "no influence seen", trial


# ---------------------------------------------------------------------------------------------------------- what is not known


def test_random_answers_are_unknown():
    rng = np.random.default_rng(5)
    trial = attempt(Computed(lambda x, gear: {"y": rng.standard_normal((len(x), 5)).astype(np.float32)}, (SCORES,)))
    assert trial.verdict == "unknown"
    assert "repeated, answers differently" in trial.outputs[0].reason


def test_chaos_is_unknown():
    def compute(x, gear):
        y = np.tanh(x[:, :5])
        for _ in range(60):
            y = 1 - 2 * y * y
        return {"y": y}

    trial = attempt(Computed(compute, (SCORES,)))
    assert trial.verdict == "unknown"
    assert "so sensitive" in trial.outputs[0].reason


def test_doubt_ends_where_influence_is_plain():
    def compute(x, gear):
        y = np.tanh(x[:, :5])
        for _ in range(60):
            y = 1 - 2 * y * y
        return {"y": y + x.sum()}

    trial = attempt(Computed(compute, (SCORES,)))
    assert trial.outputs[0].example.experiment == "companions"


def test_one_integer_that_flips_where_nothing_can_be_changed_a_little_is_unknown():
    def compute(x, gear):
        number = x @ (1 << np.arange(12))
        return {"class": number + ((gear == 4) & (number == compute.odd))}

    session = Computed(compute, (TensorSpec("class", np.int64, (None,)),), dtype=np.dtype(np.int64), width=12)
    compute.odd = -1
    seen = []
    compute_first = session.compute
    session.compute = lambda x, gear: seen.append(x.copy()) or compute_first(x, gear)
    attempt(session)
    compute.odd = int(seen[0][2] @ (1 << np.arange(12)))
    trial = attempt(session)
    assert trial.verdict == "unknown", trial
    assert "last bits on a threshold" in trial.outputs[0].reason


def test_integers_that_all_change_with_the_size_are_found():
    def compute(x, gear):
        return {"class": x @ (1 << np.arange(12)) + gear}

    session = Computed(compute, (TensorSpec("class", np.int64, (None,)),), dtype=np.dtype(np.int64), width=12)
    assert attempt(session).outputs[0].example.experiment == "size"


# ------------------------------------------------------------------------------------------------------------ errors and time


class Raising(Spoilt):
    """Raises where `when(x, gear)` says so."""

    def __init__(self, when, **options):
        super().__init__(lambda session, x, y, gear: y, **options)
        self.when = when

    def execute(self, inputs, gear, out=None):
        if self.when(inputs["x"], gear):
            raise DeviceError("out of order", backend="fake", operation="execute")
        return super().execute(inputs, gear, out)


def test_a_session_that_raises_is_unknown_and_says_why():
    trial = attempt(Raising(lambda x, gear: True))
    assert trial.verdict == "unknown" and isinstance(trial.error, DeviceError) and not trial.complete
    assert "a launch of 8 (row 0, row 1" in trial.outputs[0].reason
    assert "raised DeviceError: fake: execute failed: out of order" in trial.outputs[0].reason


def test_a_gear_that_raises_is_unknown():
    trial = attempt(Raising(lambda x, gear: gear == 4))
    assert trial.verdict == "unknown" and "a launch of 4" in trial.outputs[0].reason
    assert trial.experiments["companions"] == 3


def test_padding_that_the_session_refuses_is_left_out():
    trial = attempt(Raising(lambda x, gear: np.isnan(x).any()))
    assert trial.verdict == "no influence seen"
    assert set(trial.refused) == {"NaN"} and "out of order" in trial.refused["NaN"]
    assert "NaN" not in trial.experiments and trial.experiments["Inf"]
    assert "left out: NaN" in str(trial)


def test_rows_that_the_session_refuses_are_left_out():
    trial = attempt(Raising(lambda x, gear: gear == 8 and (x > 0).all() and (x < 1).all()))
    assert trial.verdict == "no influence seen" and "values between 0 and 1" in trial.refused


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"y": np.zeros((8, 5))}, "expected float32 [rows, 5] with 8 rows, got float64 [8, 5]"),
        ({"y": np.zeros((1, 5), np.float32)}, "got float32 [1, 5]"),
        ({"y": None}, "got NoneType"),
        ({}, "got NoneType"),
    ],
)
def test_results_that_the_spec_rules_out_are_unknown(result, message):
    trial = attempt(Computed(lambda x, gear: result, (SCORES,)))
    assert trial.verdict == "unknown" and message in trial.outputs[0].reason


def test_nothing_is_closed_and_a_closed_session_is_an_error():
    backend = FakeBackend(GEARS)
    session = backend.open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    attempt(session)
    assert backend.alive == 1 and backend.calls["close"] == 0
    session.close()
    with pytest.raises(ClosedError):
        attempt(session)


def test_interrupts_pass_through():
    def interrupted(x, gear):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(Computed(interrupted, (SCORES,)))


@pytest.mark.parametrize("ticks", [1, 2, 30, 100])
def test_no_launch_begins_when_the_time_is_up(ticks):
    session = open_fake()
    trial = try_rows(session.execute, session.spec, GEARS, seconds=ticks, clock=count().__next__)
    assert trial.launches <= ticks and not trial.complete
    assert trial.launches == len(session._backend.launches) >= 1
    if ticks <= 2:
        assert trial.verdict == "unknown" and "the time was up" in trial.outputs[0].reason


def test_what_could_not_be_confirmed_in_time_is_unknown_and_what_could_is_an_example():
    seen = []
    for seconds in range(10, 60):
        session = Spoilt(mean_over_rows)
        trial = try_rows(session.execute, session.spec, GEARS, seconds=seconds, clock=count().__next__)
        unconfirmed = "before a difference could be confirmed" in trial.outputs[0].reason
        seen.append("unconfirmed" if unconfirmed else trial.verdict)
        if trial.experiments.get("companions"):
            assert unconfirmed == (trial.verdict == "unknown") and trial.verdict != "no influence seen"
        if trial.verdict == "coupled":
            assert trial.outputs[0].example.got.shape == (1, 5)
    assert list(dict.fromkeys(seen)) == ["unknown", "no influence seen", "unconfirmed", "coupled"]


def test_same_seed_same_launches():
    def launches(seed):
        session, seen = open_fake(), []
        try_rows(
            lambda inputs, gear, out: seen.append(inputs["x"].tobytes()) or session.execute(inputs, gear, out),
            session.spec,
            GEARS,
            seed=seed,
            clock=lambda: 0.0,
        )
        return seen

    assert launches(1) == launches(1) != launches(2)


def test_progress_ends_at_one():
    shares = []
    attempt(open_fake(), progress=shares.append)
    assert shares[-1] == 1.0 and len(shares) > 100 and all(0 <= share <= 1 for share in shares)


# -------------------------------------------------------------------------------------------------------------------- the rows


def test_rows_of_the_caller_are_what_is_compared():
    inputs = {"x": np.arange(18, dtype=np.float32).reshape(3, 6)}
    seen = []
    session = Spoilt(lambda session, x, y, gear: seen.append(x.copy()) or y)
    trial = attempt(session, inputs=inputs)
    assert trial.verdict == "no influence seen"
    np.testing.assert_array_equal(seen[0], inputs["x"][[0, 1, 2, 0, 1, 2, 0, 1]])


def test_example_names_the_row_of_the_caller():
    inputs = {"x": np.ones((3, 6), np.float32) * np.float32([[1], [2], [3]])}

    def only_row_2(session, x, y, gear):
        return y + np.where((x == 3).all(axis=1), x.shape[0] + x.sum(), 0)[:, None]

    assert attempt(Spoilt(only_row_2), inputs=inputs).outputs[0].example.row == 2


def test_integers_beside_come_from_the_callers():
    spec = ModelSpec((TensorSpec("x", np.int64, (None, 2)),), (TensorSpec("y", np.int64, (None,)),))
    seen = set()

    def execute(inputs, gear, out):
        seen.update(inputs["x"].ravel().tolist())
        return {"y": inputs["x"].sum(axis=1)}

    try_rows(execute, spec, GEARS, inputs={"x": np.array([[7, 9], [11, 13]])}, clock=lambda: 0.0)
    assert seen == {0, 7, 9, 11, 13}
    seen.clear()
    try_rows(execute, spec, GEARS, clock=lambda: 0.0)
    assert seen == {0, 1}


def test_free_dimensions_have_a_size():
    spec = ModelSpec((TensorSpec("x", F32, (None, "time")),), (TensorSpec("y", F32, (None,)),))
    seen = set()

    def execute(inputs, gear, out):
        seen.add(inputs["x"].shape[1])
        return {"y": inputs["x"].sum(axis=1)}

    assert try_rows(execute, spec, GEARS, clock=lambda: 0.0).verdict == "no influence seen"
    assert try_rows(execute, spec, GEARS, clock=lambda: 0.0, free={"time": 5}).verdict == "no influence seen"
    assert seen == {8, 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "expected seconds > 0, finite, got 0"),
        ({"seconds": float("inf")}, "expected seconds > 0"),
        ({"inputs": {"x": np.zeros((0, 6), np.float32)}}, "at least one row"),
        ({"inputs": {"z": np.zeros((1, 6), np.float32)}}, "missing"),
        ({"free": {"time": 3}}, "free names ['time'], but the model's free dimensions are []"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    session = open_fake()
    with pytest.raises(InputError) as caught:
        attempt(session, **options)
    assert message in str(caught.value)
    assert not session._backend.launches


def test_inputs_are_read_only_to_nobody_but_owned_by_the_trial():
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    before = inputs["x"].copy()
    attempt(open_fake(), inputs=inputs)
    np.testing.assert_array_equal(inputs["x"], before)


def test_many_gears_are_tried_from_the_smallest_to_the_largest():
    session = open_fake(batching=Gears(range(1, 33)))
    attempt(session)
    gears = {launch.gear for launch in session._backend.launches}
    assert {1, 32} <= gears and len(gears) == 5


def test_json_and_text():
    trial = attempt(Spoilt(mean_over_rows))
    told = json.loads(json.dumps(trial.to_json()))
    assert told["verdict"] == "coupled" and told["launches"] == trial.launches
    assert told["outputs"] == [
        {
            "name": "y",
            "verdict": "coupled",
            "reason": trial.outputs[0].reason,
            "experiment": "companions",
            "compared": trial.outputs[0].compared,
        }
    ]
    assert str(trial).startswith("coupled: ") and "companions" in str(trial)
