"""Tolerances: from dtypes and precisions, with their reasons, and the caller's own."""

import ml_dtypes
import numpy as np
import pytest

from anybatch import InputError
from anybatch.comparison._results import Tolerance
from anybatch.comparison._tolerances import default_tolerance, dtype_of_precision, read_tolerances


def default(dtype, *precisions):
    return default_tolerance([np.dtype(dtype)], precisions)


@pytest.mark.parametrize(
    ("dtype", "precisions", "rtol", "says"),
    [
        (np.float32, (), 256 * 2**-23, "float32: 256 of its rounding steps of 1.2e-07"),
        (np.float32, ("", "float32"), 256 * 2**-23, "float32"),
        (np.float32, ("float32", "float16"), 16 * 2**-10, "float16: 16 of its rounding steps of 0.00098, for each operator"),
        (np.float32, ("bfloat16",), 16 * 2**-7, "bfloat16"),
        (np.float32, ("float64",), 256 * 2**-23, "float32"),
        (np.float16, ("float32",), 16 * 2**-10, "float16"),
        (np.float64, (), 256 * 2**-52, "float64"),
        (ml_dtypes.bfloat16, (), 16 * 2**-7, "bfloat16"),
        (np.complex64, (), 256 * 2**-23, "float32"),
        (np.float32, ("int8",), 32 * 2**-7, "quantised to int8: 32 of 128 steps"),
        (np.float32, ("float8_e4m3fn",), 32 * 2**-7, "quantised to float8_e4m3fn"),
        (np.int64, ("float16",), 0.0, "int64: exact values"),
        (np.bool_, (), 0.0, "bool: exact values"),
        (np.int64, ("int8",), 0.0, "int64: exact values"),
        (ml_dtypes.int4, (), 0.0, "int4: exact values"),
    ],
)
def test_default_tolerances_and_their_reasons(dtype, precisions, rtol, says):
    tolerance = default(dtype, *precisions)
    assert tolerance.rtol == rtol
    assert says in tolerance.reason


def test_a_quantised_value_may_be_one_step_off():
    assert (default(np.int8, "int8").rtol, default(np.int8, "int8").atol) == (0.0, 1.0)
    assert default(np.int8).atol == 0.0


def test_what_a_device_takes_for_zero_is_tolerated():
    assert default(np.float32).atol == float(np.finfo(np.float32).tiny)
    assert default(np.float32, "float16").atol == 16 * 2**-24
    assert default(np.int32).atol == 0.0


def test_the_coarsest_dtype_counts():
    assert default_tolerance([np.dtype(np.float32), np.dtype(np.float16)]) == default(np.float16)


def test_there_must_be_a_dtype():
    with pytest.raises(InputError, match="expected the dtypes of an output, got none"):
        default_tolerance([])


@pytest.mark.parametrize("word", ["fp16", "half-ish", "str", "U5", "object", "bool", "finfo", "1"])
def test_an_unknown_precision_is_refused(word):
    with pytest.raises(InputError, match=f"expected a precision such as 'float32', .*got '{word}'"):
        dtype_of_precision(word)


def test_tolerances_of_the_caller():
    own = Tolerance(0.0, 2.0, "as agreed")
    read = read_tolerances({"a": own, "b": 1e-3, "c": (1e-2, 1e-5), "d": np.float32(0.5), "e": 0}, "abcdef")
    assert read["a"] == own
    assert (read["b"].rtol, read["b"].atol, read["b"].reason) == (1e-3, 0.0, "the caller's")
    assert (read["c"].rtol, read["c"].atol) == (1e-2, 1e-5)
    assert (read["d"].rtol, read["e"].rtol) == (0.5, 0.0)
    assert "f" not in read
    assert read_tolerances(None, "a") == {}


@pytest.mark.parametrize(
    "value", [-1e-3, np.nan, np.inf, "1e-3", (1e-3,), (1e-3, 1e-3, 1e-3), (1e-3, -1), None, True, Tolerance(-1.0, 0.0, "")]
)
def test_what_is_no_tolerance_is_refused(value):
    with pytest.raises(InputError, match=r"tolerance of 'y': expected rtol, \(rtol, atol\) or a Tolerance, .* got"):
        read_tolerances({"y": value}, ["y"])


def test_tolerances_name_outputs():
    with pytest.raises(InputError, match=r"tolerances name \['z'\], which are no outputs; the outputs are \['y'\]"):
        read_tolerances({"z": 1e-3}, ["y"])
    with pytest.raises(InputError, match=r'expected tolerances by output, such as \{"scores": 1e-3\}, got 0.001'):
        read_tolerances(1e-3, ["y"])
