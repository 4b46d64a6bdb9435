"""Figures of differences: against a naive count element by element, in chunks, and where floats are no numbers."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anybatch import TensorSpec
from anybatch.comparison._metrics import Differences, Scale, as_rows
from anybatch.comparison._results import BINS, Tolerance

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
INTS = [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, ml_dtypes.int4]
LOOSE = Tolerance(1e-3, 1e-6, "for tests")


def measure(expected, got, tolerance=LOOSE, scale=1.0, *, axis=0, factor=1, coarse=None, cuts=()):
    expected, got = np.asarray(expected), np.asarray(got)
    tensor = TensorSpec("y", expected.dtype, (None,) * expected.ndim, batch_axis=axis, rows_per_row=factor)
    differences = Differences(tensor, tolerance, scale, coarse=coarse)
    if axis is None:
        outside = [differences.add(expected, got)]
    else:
        bounds = [0, *cuts, expected.shape[axis] // factor]
        outside = [
            differences.add(tensor.rows_of(expected, start, stop), tensor.rows_of(got, start, stop))
            for start, stop in zip(bounds, bounds[1:])  # noqa: B905, RUF007
        ]
    return differences, np.concatenate(outside)


def naive(expected, got, tolerance, scale):
    """Count with Python's numbers, exactly, one element after the other."""
    counts = {"elements": 0, "differing": 0, "outside": 0, "nan_mismatches": 0, "inf_mismatches": 0, "zeros_missed": 0}
    histogram = [0] * (len(BINS) + 1)
    absolute, relative, worst = [], [], 0.0
    for e, g in zip(expected.ravel(), got.ravel(), strict=True):
        integer = np.asarray(e).dtype.kind in "biu" or "int" in str(np.asarray(e).dtype)
        e, g = (int(e), int(g)) if integer else (float(e), float(g))
        counts["elements"] += 1
        nan, inf = math.isnan(e) != math.isnan(g), (math.isinf(e) or math.isinf(g)) and e != g
        counts["nan_mismatches"] += nan
        counts["inf_mismatches"] += inf
        differs = e != g and not (math.isnan(e) and math.isnan(g))
        counts["differing"] += differs
        counts["zeros_missed"] += differs and e == 0
        share = 0.0
        if math.isfinite(e) and math.isfinite(g):
            off = abs(Fraction(e) - Fraction(g))
            absolute.append(off)
            if e:
                relative.append(off / abs(Fraction(e)))
            allowed = tolerance.atol + tolerance.rtol * max(abs(e), scale)
            if differs:
                share = max(float(off) / allowed if allowed else math.inf, 5e-324)
        elif differs:
            share = math.inf
        counts["outside"] += share > 1
        histogram[next((i for i, bound in enumerate(BINS) if share <= bound), len(BINS))] += 1
        worst = max(worst, share)
    return counts, histogram, absolute, relative, worst


@st.composite
def pairs(draw, dtypes=(*FLOATS, *INTS, np.bool_)):
    """Two arrays of one shape, of which many elements are equal or near one another."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    bits = np.dtype(f"u{dtype.itemsize}")
    if dtype.kind == "b":
        return tuple(draw(hnp.arrays(dtype, shape)) for _ in range(2))
    raw = draw(hnp.arrays(bits, shape))
    steps = draw(hnp.arrays(bits, shape, elements=st.integers(0, 3) | st.integers(0, np.iinfo(bits).max)))
    if dtype == ml_dtypes.int4:
        return tuple((each.astype(np.int64) % 16 - 8).astype(dtype) for each in (raw, raw + steps))
    return raw.view(dtype), (raw + steps).view(dtype)


@given(pairs(), st.sampled_from([Tolerance(0.0, 0.0, ""), LOOSE, Tolerance(0.5, 0.0, "")]), st.sampled_from([0.0, 1.0, 100.0]))
def test_figures_are_those_of_a_naive_count(pair, tolerance, scale):
    expected, got = pair
    differences, _ = measure(expected, got, tolerance, scale)
    metrics = differences.result()
    counts, histogram, absolute, relative, worst = naive(expected, got, tolerance, scale)
    assert {name: getattr(metrics, name) for name in counts} == counts
    assert list(metrics.histogram) == histogram
    largest = np.finfo(np.float64).max
    close = {"rel": 1e-12, "abs": 5e-324}
    assert metrics.max_abs == pytest.approx(float(min(max(absolute, default=0), largest)), **close)
    assert metrics.mean_abs <= metrics.max_abs * (1 + 1e-12)
    if sum(absolute) < largest:
        assert metrics.mean_abs == pytest.approx(float(sum(absolute)) / max(1, len(absolute)), **close)
    assert (metrics.max_rel is None) == (not relative)
    if relative:
        assert metrics.max_rel == pytest.approx(float(min(max(relative), largest)), **close)
    assert (differences.worst is None) == (not counts["differing"])
    if differences.worst is not None:
        w = differences.worst
        assert w.index[0] == w.row
        off = abs(w.expected - w.got)
        if worst < math.inf:
            assert off / w.tolerated == pytest.approx(worst)
            assert type(w.expected)(expected[w.index]) == w.expected and type(w.got)(got[w.index]) == w.got


@given(pairs(), st.data())
def test_chunks_of_rows_give_the_same_as_all_at_once(pair, data):
    expected, got = pair
    axis = data.draw(st.integers(0, expected.ndim - 1))
    rows = expected.shape[axis]
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    once, outside = measure(expected, got, axis=axis)
    parts, outside_of_parts = measure(expected, got, axis=axis, cuts=cuts)
    assert list(outside) == list(outside_of_parts)
    a, b = once.result(), parts.result()
    for name in type(a).__dataclass_fields__:
        one, other = getattr(a, name), getattr(b, name)
        assert one == other if one is None or name == "histogram" else one == pytest.approx(other, rel=1e-9, abs=1e-300), name
    if once.worst is None:
        assert parts.worst is None
    else:
        assert repr(once.worst) == repr(parts.worst) or once.worst.index != parts.worst.index  # of equals, either


@given(st.sampled_from(FLOATS), st.data())
def test_ulp_counts_the_values_from_one_to_the_other(dtype, data):
    """Values in order, each one beside the next, whatever their signs."""
    bits = np.arange(256, dtype=np.uint8) if np.dtype(dtype).itemsize == 1 else np.arange(1 << 16, dtype=np.uint16)
    if np.dtype(dtype).itemsize > 2:  # a run of neighbours across zero
        tiny = np.finfo(dtype).smallest_subnormal
        values = np.arange(-300, 300).astype(dtype) * tiny
    else:
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = bits.view(dtype).astype(np.float64)
        values = np.unique(values[np.isfinite(values)]).astype(dtype)
    i, j = (data.draw(st.integers(0, len(values) - 1)) for _ in range(2))
    differences, _ = measure(values[[i]], values[[j]])
    assert differences.result().max_ulp == abs(i - j)


@pytest.mark.parametrize(
    ("dtype", "one", "other", "ulp"),
    [
        (np.float32, 1.0, 1.0 + 2**-23, 1),
        (np.float32, -0.0, 0.0, 0),
        (np.float64, -5e-324, 5e-324, 2),
        (np.float64, -np.finfo(np.float64).max, np.finfo(np.float64).max, 2 * 0x7FEFFFFFFFFFFFFF),
        (np.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (np.uint64, 0, 2**64 - 1, 2**64 - 1),
        (np.int64, 2**62, 2**62 + 1, 1),
        (np.bool_, True, False, 0),
        (np.float32, np.nan, 1.0, 0),
        (np.float32, np.inf, 1.0, 0),
    ],
)
def test_ulp_distances(dtype, one, other, ulp):
    differences, _ = measure(np.array([one], dtype), np.array([other], dtype))
    assert differences.result().max_ulp == ulp


def test_ulp_counts_in_values_of_the_coarser_dtype():
    one, other = np.array([1.0, 2.0], np.float32), np.array([1.0, 2.0 + 2**-8], np.float16)
    differences, _ = measure(one, other, coarse=np.dtype(np.float16))
    assert differences.result().max_ulp == 2
    assert differences.result().max_abs == 2**-8
    beyond, _ = measure(np.array([1e6], np.float32), np.array([65504], np.float16), coarse=np.dtype(np.float16))
    assert beyond.result().max_ulp == 1  # what overflows comes after the largest


def test_big_integers_that_differ_by_one_differ():
    differences, outside = measure(np.array([2**62, 5]), np.array([2**62 + 1, 5]), Tolerance(0.0, 0.0, ""))
    metrics = differences.result()
    assert (metrics.differing, metrics.outside, metrics.max_abs) == (1, 1, 1.0)
    assert list(outside) == [True, False]
    assert (differences.worst.expected, differences.worst.got) == (2**62, 2**62 + 1)
    assert isinstance(differences.worst.got, int)


def test_nan_and_infinities_are_counted_and_enter_no_figure():
    expected = np.array([1.0, np.nan, np.nan, np.inf, np.inf, np.inf, 0.0, 2.0], np.float32)
    got = np.array([1.0, np.nan, 1.0, np.inf, -np.inf, np.nan, np.inf, 2.5], np.float32)
    metrics = measure(expected, got)[0].result()
    assert (metrics.elements, metrics.differing, metrics.outside) == (8, 5, 5)
    assert (metrics.nan_mismatches, metrics.inf_mismatches, metrics.zeros_missed) == (2, 3, 1)
    assert (metrics.max_abs, metrics.max_rel) == (0.5, 0.25)
    assert metrics.mean_abs == 0.25  # of the two pairs of finite elements
    assert metrics.cosine == pytest.approx(6 / math.sqrt(5 * 7.25))
    assert metrics.snr_db == pytest.approx(10 * math.log10(5 / 0.25))
    assert sum(metrics.histogram) == 8 and metrics.histogram[0] == 3


def test_without_any_finite_pair_there_is_no_figure():
    metrics = measure(np.array([np.nan, np.inf]), np.array([np.nan, 0.0]))[0].result()
    assert (metrics.max_abs, metrics.mean_abs, metrics.max_rel, metrics.mean_rel) == (0.0, 0.0, None, None)
    assert (metrics.cosine, metrics.snr_db) == (None, None)


def test_zeros_have_no_relative_error_and_no_cosine():
    metrics = measure(np.zeros(3), np.array([0.0, -0.0, 1e-3]))[0].result()
    assert (metrics.max_rel, metrics.mean_rel, metrics.cosine, metrics.snr_db) == (None, None, None, None)
    assert (metrics.zeros_missed, metrics.differing, metrics.max_abs) == (1, 1, 1e-3)


def test_figures_of_huge_and_tiny_values_are_finite():
    for size in (1e300, 1e-300, 5e-324):
        values = np.array([1.0, -1.0, 1.0]) * size
        metrics = measure(values, -values, scale=size)[0].result()
        assert metrics.cosine == pytest.approx(-1.0)
        assert metrics.snr_db == pytest.approx(10 * math.log10(1 / 4))
        assert math.isfinite(metrics.max_abs) and math.isfinite(metrics.mean_abs)
    largest = np.full(4, np.finfo(np.float64).max)
    metrics = measure(largest, -largest)[0].result()
    assert metrics.max_abs == metrics.mean_abs * 4 == np.finfo(np.float64).max  # which is all a float64 can say


def test_sums_of_products_survive_a_later_chunk_of_another_magnitude():
    expected = np.array([[1e-200], [3.0], [4e200]])
    got = np.array([[2e-200], [3.0], [4e200]])
    once, _ = measure(expected, got, cuts=(1, 2))
    assert once.result().cosine == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_elements_count_as_two(dtype):
    expected = np.array([[1 + 2j, 3 - 1j]], dtype)
    got = np.array([[1 + 2j, 3 + 1j]], dtype)
    differences, outside = measure(expected, got)
    assert (differences.result().elements, differences.result().outside, differences.result().max_abs) == (4, 1, 2.0)
    assert (differences.worst.index, differences.worst.row) == ((0, 1, 1), 0)
    assert list(outside) == [True]


def test_the_worst_is_where_most_of_the_tolerance_is_spent():
    expected = np.array([[100.0, 1.0], [1.0, 1.0]], np.float32)
    got = np.array([[101.0, 1.0], [1.0, 1.5]], np.float32)
    worst = measure(expected, got, scale=1.0)[0].worst
    assert (worst.index, worst.row, worst.expected, worst.got) == ((1, 1), 1, 1.0, 1.5)
    assert worst.tolerated == pytest.approx(1e-6 + 1e-3)


def test_the_worst_of_later_requests_counts_rows_of_all():
    expected, got = np.zeros((4, 6)), np.zeros((4, 6))
    got[2, 5] = 1
    worst = measure(expected, got, axis=1, factor=2, cuts=(1,))[0].worst  # 3 rows of two entries each
    assert (worst.index, worst.row) == ((2, 5), 2)
    alone = measure(np.float32(1), np.float32(2), axis=None)[0].worst
    assert (alone.index, alone.row) == ((), None)


def test_blocks_of_a_large_request_are_one_request():
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((300, 1000)).astype(np.float32)
    got = expected.copy()
    got[[17, 299], [3, 999]] += 1
    differences, outside = measure(expected, got)
    assert list(np.flatnonzero(outside)) == [17, 299]
    assert differences.worst.row in (17, 299)
    assert differences.result().elements == 300_000
    assert differences.result().cosine == pytest.approx(1.0, abs=1e-4)


def test_as_rows_of_an_output_with_rows_elsewhere():
    array = np.arange(24).reshape(2, 6, 2)
    tensor = TensorSpec("y", array.dtype, (2, None, 2), batch_axis=1, rows_per_row=3)
    by_rows = np.moveaxis(array, 1, 0)
    assert as_rows(tensor, array).tolist() == [by_rows[:3].ravel().tolist(), by_rows[3:].ravel().tolist()]
    assert as_rows(tensor, array[:, :0]).shape == (0, 12)


@pytest.mark.parametrize(
    ("expected", "got", "top1"),
    [
        ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], 1.0),
        ([[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]], 0.0),
        ([[1.0, 3.0, 3.0 + 1e-4]], [[1.0, 3.0 + 1e-4, 3.0]], 1.0),  # they tie within the tolerance
        ([[1.0, 2.0, 3.0], [9.0, 1.0, 0.0]], [[1.0, 2.0, 3.0], [1.0, 9.0, 0.0]], 0.5),
        ([[np.nan, 2.0, 3.0]], [[np.nan, 2.0, 3.0]], 1.0),
        ([[1.0, 2.0, 3.0]], [[1.0, 2.0, np.nan]], 0.0),
        ([[-np.inf, 2.0, 3.0]], [[-np.inf, 2.0, 3.1]], 1.0),
        ([[-np.inf, -np.inf, 3.0]], [[5.0, -np.inf, 3.0]], 0.0),
    ],
)
def test_top1(expected, got, top1):
    metrics = measure(np.array(expected, np.float32), np.array(got, np.float32))[0].result()
    assert metrics.top1 == top1
    assert metrics.top5 is None  # of fewer than ten classes


def test_top5_is_a_set():
    expected = np.array([np.arange(10.0), np.arange(10.0)], np.float32)
    got = expected.copy()
    got[0, [5, 9]] = got[0, [9, 5]]  # the same five in another order
    got[1, [0, 9]] = got[1, [9, 0]]
    metrics = measure(expected, got)[0].result()
    assert (metrics.top1, metrics.top5) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("array", "axis"),
    [
        (np.zeros((2, 2), np.float32), 0),  # two columns
        (np.zeros((2, 3), np.int64), 0),
        (np.zeros((2, 3, 4), np.float32), 0),
        (np.zeros((2, 3), np.complex64), 0),
        (np.zeros((2, 3), np.float32), None),
        (np.zeros((0, 3), np.float32), 0),
    ],
)
def test_what_does_not_look_like_scores_has_no_agreement(array, axis):
    assert measure(array, array, axis=axis)[0].result().top1 is None


@given(hnp.arrays(np.float32, (4, 12), elements=st.floats(-8, 8, width=32)), st.integers(0, 2**31))
def test_answers_within_the_tolerance_agree_on_the_classes(expected, seed):
    tolerance = Tolerance(0.25, 0.1, "coarse, so that many tie")
    off = np.random.default_rng(seed).uniform(-1, 1, expected.shape) * 0.99
    got = (expected + off * (0.1 + 0.25 * np.maximum(np.abs(expected), 1.0))).astype(np.float32)
    metrics = measure(expected, got, tolerance)[0].result()
    assert (metrics.outside, metrics.top1, metrics.top5) == (0, 1.0, 1.0)


def test_scores_may_have_their_rows_on_the_second_axis():
    expected = np.array([[1.0, 9.0], [2.0, 5.0], [3.0, 1.0]], np.float32)
    got = expected.copy()
    got[0, 1] = 0.0
    assert measure(expected, got, axis=1)[0].result().top1 == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.complex64, ml_dtypes.bfloat16, np.bool_])
def test_scale_is_the_root_mean_square(dtype):
    values = np.array([[3, 0], [1, 1]]).astype(dtype)
    scale = Scale()
    for row in values:
        scale.add(row)
    numbers = values.astype(np.complex128)
    parts = np.concatenate([numbers.real, numbers.imag]) if np.dtype(dtype).kind == "c" else numbers.real
    assert scale.value == pytest.approx(np.sqrt(np.mean(parts**2)))


def test_scale_leaves_out_what_is_not_finite_and_never_overflows():
    scale = Scale()
    assert scale.value == 0.0
    scale.add(np.array([np.nan, np.inf, -np.inf]))
    assert scale.value == 0.0
    scale.add(np.array([1e308, 1e308]))
    assert scale.value == pytest.approx(1e308)
