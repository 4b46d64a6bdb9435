"""How far answers may be apart: a `Tolerance` per output, with its reason.

An element may be off by ``atol + rtol * max(|expected|, scale)``, where the scale is the root mean square of the reference's
finite values of that output. For floats, ``rtol`` is the rounding step of the coarsest arithmetic that took part (what the
sessions compute in, and the dtypes of inputs and of the output) times a factor:

- float32 and float64 accumulate in themselves. Sums of n terms in another order differ by about sqrt(n) steps, and through many
  layers these add up: `_SUMS_FINE` steps are a sum of 65,000 terms, or 64 layers of sums of 1,000.
- float16 and bfloat16 are rounded to once per operator, while sums are kept finer: after L operators about sqrt(L) steps are
  usual, and four to five times that is the largest of 100,000 elements: `_SUMS_COARSE` steps are enough for 30 layers.
- Quantised models round to `_INT8_STEPS` steps over a tensor's whole range, several times what its values mostly are, once per
  layer as well: `_SUMS_INT8` steps.

Stated rate: of a model's comparisons with itself, with other batch sizes, threads, optimisations or runtimes, at most 1 % fail
in an output of floats where both sides compute in float32, and 5 % where one computes coarser: a softmax over large scores
turns one rounding step of a score into several per cent. ``benchmarks/compare_false_alarms.py`` measures that, and which
planted deviations are found; in 632 and 234 comparisons it saw 0 and 3, with differences of up to 0.04 and 2 times what is
tolerated.

Integers and bools must be equal. A class number at a threshold may flip for one row in thousands between two right
implementations; it is shown, with how many, and whoever accepts it says so: ``tolerances={"class": ...}``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np

from anybatch._errors import InputError
from anybatch.comparison._results import Tolerance

Tolerances: TypeAlias = Mapping[str, "Tolerance | float | tuple[float, float]"]

STATED_RATE: Final = 0.01  # of comparisons that are a false alarm
STATED_RATE_COARSE: Final = 0.05
_SUMS_FINE: Final = 256
_SUMS_COARSE: Final = 16
_SUMS_INT8: Final = 32
_INT8_STEPS: Final = 2**7  # from 0 to the largest value


def float_info(dtype: np.dtype[Any]) -> Any:
    """Return what is known of a float dtype, or of a complex one's components; None for integers and bools."""
    if dtype.kind == "c":
        return np.finfo(dtype)
    if dtype.kind in "biu":
        return None
    try:  # bfloat16 is of kind "V", and so are integers of 4 bits
        return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return None


def dtype_of_precision(precision: str) -> np.dtype[Any]:
    """Return the dtype that a session or an entry says it computes in.

    Raises:
        InputError: there is no such dtype.
    """
    for known in (lambda: np.dtype(precision), lambda: np.dtype(getattr(ml_dtypes, precision))):
        try:
            dtype = known()
        except (TypeError, AttributeError, ValueError):
            continue
        if precision and (dtype.kind in "fiu" or hasattr(ml_dtypes, dtype.name)):
            return dtype
    raise InputError(f"expected a precision such as 'float32', 'float16', 'bfloat16' or 'int8', got {precision!r}")


def default_tolerance(dtypes: Collection[np.dtype[Any]], precisions: Iterable[str] = ()) -> Tolerance:
    """Return how far an output may be off.

    Args:
        dtypes: of the output, on both sides; and of the model's float inputs, where a side does not say what it computes in.
        precisions: what the two sides compute in, as `Entry.computes_in`; empty ones say nothing.

    Raises:
        InputError: a precision is unknown, or there is no dtype.
    """
    if not dtypes:
        raise InputError("expected the dtypes of an output, got none")
    said = [dtype_of_precision(precision) for precision in precisions if precision]
    quantised = [dtype for dtype in said if float_info(dtype) is None or dtype.itemsize == 1]
    output = next(iter(dtypes))
    if float_info(output) is None:
        if quantised and output.kind in "iu" and output.itemsize <= 2:
            return Tolerance(0.0, 1.0, f"quantised to {quantised[0]}: a value at the edge of a step may fall to either side")
        return Tolerance(0.0, 0.0, f"{output}: exact values")
    if quantised:
        rtol = _SUMS_INT8 / _INT8_STEPS
        return Tolerance(rtol, 0.0, f"quantised to {quantised[0]}: {_SUMS_INT8} of {_INT8_STEPS} steps of the range")
    floats = [dtype for dtype in (*dtypes, *said) if float_info(dtype) is not None]
    coarsest = max(floats, key=lambda dtype: float(float_info(dtype).eps))
    info = float_info(coarsest)
    if info.bits <= 16:
        factor, why = _SUMS_COARSE, "each operator rounds to it"
        atol = factor * float(info.smallest_subnormal)
    else:
        factor, why = _SUMS_FINE, "sums in another order, through many layers"
        atol = float(info.smallest_normal)  # what is smaller, some devices take for 0
    step = float(info.eps)
    return Tolerance(factor * step, atol, f"{_component(coarsest)}: {factor} of its rounding steps of {step:.2g}, for {why}")


def read_tolerances(given: Tolerances | None, outputs: Collection[str]) -> dict[str, Tolerance]:
    """Return the caller's tolerances by output.

    Args:
        given: by output, a `Tolerance`, ``(rtol, atol)``, or ``rtol`` alone, with an atol of 0; None is none.
        outputs: the outputs there are.

    Raises:
        InputError: an output is unknown, or a tolerance is not one or negative; the message names it.
    """
    if not isinstance(given or {}, Mapping):
        raise InputError(f'expected tolerances by output, such as {{"scores": 1e-3}}, got {given!r}')
    unknown = sorted(set(given or {}) - set(outputs), key=str)
    if unknown:
        raise InputError(f"tolerances name {unknown}, which are no outputs; the outputs are {list(outputs)}")
    return {name: _read(name, value) for name, value in (given or {}).items()}


def _read(name: str, value: object) -> Tolerance:
    reason = "the caller's"
    if isinstance(value, Tolerance):
        pair: tuple[object, ...] = (value.rtol, value.atol)
        reason = value.reason or reason
    else:
        pair = tuple(value) if isinstance(value, (tuple, list)) else (value, 0.0)
    numbers = [
        float(each)
        for each in pair
        if isinstance(each, (int, float, np.integer, np.floating)) and not isinstance(each, bool) and 0 <= each < math.inf
    ]
    if len(pair) != 2 or len(numbers) != 2:
        raise InputError(
            f"tolerance of {name!r}: expected rtol, (rtol, atol) or a Tolerance, of finite numbers of 0 or more, got {value!r}"
        )
    return Tolerance(numbers[0], numbers[1], reason)


def _component(dtype: np.dtype[Any]) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(str(dtype), str(dtype))
