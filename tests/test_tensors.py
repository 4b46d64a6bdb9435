"""Specs: what they accept, how they read, and every message."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from anybatch import AnyBatch, Gears, InputError, ModelError, ModelSpec, MultipleOf, TensorSpec, check_launch

F32 = np.dtype(np.float32)


def tensor(*shape, dtype=F32, **rest):
    return TensorSpec("x", dtype, shape, **rest)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (tensor(None, 3, 224), "float32 [rows, 3, 224]"),
        (tensor(16, None, batch_axis=1), "float32 [16, rows]"),
        (tensor(None, "tokens", None, rows_per_row=12), "float32 [12*rows, tokens, ?]"),
        (tensor(batch_axis=None), "float32 []"),
        (tensor(3, batch_axis=None, dtype=ml_dtypes.bfloat16), "bfloat16 [3]"),
    ],
)
def test_specs_read_as_the_docs_write_shapes(spec, text):
    assert str(spec) == text


def test_specs_are_normalised_and_compare_by_value():
    spec = TensorSpec("x", ">f4", ["rows", 3])  # type: ignore[arg-type]  # what numpy.dtype takes is taken
    assert spec == tensor(None, 3)
    assert hash(spec) == hash(tensor(None, 3))


def test_shape_for():
    spec = tensor(4, None, "tokens", None, batch_axis=1, rows_per_row=2)
    assert spec.shape_for(5) == (4, 10, None, None)
    assert spec.shape_for(5, {"tokens": 7}) == (4, 10, 7, None)
    assert tensor(3, batch_axis=None).shape_for(5) == (3,)


def test_rows_of_is_a_view_on_any_axis():
    array = np.arange(24).reshape(2, 12)
    assert tensor(2, None, batch_axis=1, rows_per_row=3, dtype=array.dtype).rows_of(array, 1, 3).tolist() == [
        list(range(3, 9)),
        list(range(15, 21)),
    ]
    assert np.shares_memory(tensor(None, 12).rows_of(array, 0, 1), array)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tensor(None, dtype=object), "'x': expected a dtype of fixed size, got object; strings are not supported"),
        (lambda: tensor(None, -1), "'x': expected dimensions >= 0, got -1"),
        (lambda: tensor(None, batch_axis=1), "'x': expected batch_axis in 0..0, got 1"),
        (lambda: tensor(None, batch_axis=-1), "'x': expected batch_axis in 0..0, got -1"),
        (lambda: tensor(8, 3), "'x': the batch axis 0 must not have a fixed size, got 8; write None there"),
        (lambda: tensor(None, rows_per_row=0), "'x': expected rows_per_row >= 1, got 0"),
        (lambda: tensor(3, batch_axis=None, rows_per_row=2), "'x': rows_per_row is 2, but no axis carries rows"),
        (lambda: tensor(None, combine="sum"), "'x': combine is for outputs without rows, this one has axis 0"),
        (lambda: tensor(3, batch_axis=None, combine="median"), "'x': expected combine to be one of .*, got 'median'"),
        (lambda: ModelSpec((), (tensor(None),)), "expected at least one input, got none"),
        (lambda: ModelSpec((tensor(None),), ()), "expected at least one output, got none"),
        (lambda: ModelSpec((tensor(None), tensor(None)), (tensor(None),)), "expected input names to differ"),
    ],
)
def test_each_message(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_model_needs_rows():
    with pytest.raises(
        ModelError, match=r"no input has a batch axis, so there are no rows to batch; inputs are 'x': float32 \[3\]"
    ):
        ModelSpec((tensor(3, batch_axis=None),), (tensor(None),))


@pytest.mark.parametrize(
    ("batching", "rows", "gear", "message"),
    [
        (Gears((4, 8)), 4, 4, None),
        (Gears((4, 8)), 5, 5, "expected a gear of this session, which runs gears 4, 8, got 5"),
        (Gears((4, 8)), 3, 4, "expected 4 rows in every input, got: 'x' has 3"),
        (Gears((4, 8), pads=True), 3, 4, None),
        (Gears((4, 8), pads=True), 5, 4, "expected 1 to 4 rows in every input, got: 'x' has 5"),
        (Gears((4, 8), pads=True), 0, 4, "expected 1 to 4 rows in every input, got: 'x' has 0"),
        (MultipleOf(4), 5, 8, None),
        (MultipleOf(4), 5, 6, "expected a gear of this session, which runs multiples of 4, got 6"),
        (AnyBatch(), 5, 5, None),
        (AnyBatch(), 5, 6, "expected 6 rows in every input, got: 'x' has 5"),
        (AnyBatch(), 0, 0, "expected a gear of this session, which runs any batch size, got 0"),
    ],
)
def test_check_launch(batching, rows, gear, message):
    spec = ModelSpec((tensor(None, 2),), (tensor(None),))
    inputs = {"x": np.ones((rows, 2), np.float32)}
    if message is None:
        assert check_launch(spec, batching, inputs, gear) == rows
    else:
        with pytest.raises(InputError, match=message):
            check_launch(spec, batching, inputs, gear)
    if rows:
        wider = ModelSpec((tensor(None, 2), TensorSpec("z", F32, (None,), rows_per_row=2)), spec.outputs)
        with pytest.raises(InputError, match="expected"):
            check_launch(wider, batching, {**inputs, "z": np.ones(2 * rows + 1, np.float32)}, gear)
