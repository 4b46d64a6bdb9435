"""What to try on batching: the sizes and launches that hurt, and Hypothesis strategies for all others."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from anybatch import AnyBatch, Batching, Gears, Launch, MultipleOf


def gears_of(batching: Batching) -> tuple[int, ...]:
    """Return sizes of full launches, ascending: all gears, two multiples, or 1, 4 and 8 where any size runs."""
    if isinstance(batching, Gears):
        return batching.sizes
    if isinstance(batching, MultipleOf):
        return batching.size, 2 * batching.size
    return 1, 4, 8


def sizes_that_hurt(batching: Batching) -> list[int]:
    """Return the request sizes where batching goes wrong: 0, 1, around each gear, above the largest; ascending."""
    gears = gears_of(batching)
    around = {gear + step for gear in gears for step in (-1, 0, 1)}
    return sorted({0, 1, *around, 2 * gears[-1] + 1})


def short_launches(gear: int) -> list[Launch]:
    """Return launches with fewer rows than their gear: one row, half, all but one; none for a gear of 1."""
    return [Launch(gear, rows) for rows in sorted({1, gear // 2, gear - 1}) if 1 <= rows < gear]


def launches_that_hurt(batching: Batching) -> list[Launch]:
    """Return launches a session must take: each gear full, and short where the session pads by itself; ascending."""
    pads = batching.pads
    return [launch for gear in gears_of(batching) for launch in (*short_launches(gear) * pads, Launch(gear, gear))]


def batch_sizes(*, max_size: int = 64, max_count: int = 6) -> st.SearchStrategy[tuple[int, ...]]:
    """Generate sets of compiled batch sizes, ascending: 1 to `max_count` of them, from 1 to `max_size`."""
    return st.lists(st.integers(1, max_size), min_size=1, max_size=max_count, unique=True).map(
        lambda sizes: tuple(sorted(sizes))
    )


def batchings(*, max_size: int = 64) -> st.SearchStrategy[Batching]:
    """Generate batchings of all kinds, with sizes up to `max_size`."""
    return st.one_of(
        st.builds(Gears, batch_sizes(max_size=max_size), pads=st.booleans()),
        st.builds(MultipleOf, st.integers(1, max_size)),
        st.just(AnyBatch()),
    )


def request_sizes(batching: Batching) -> st.SearchStrategy[int]:
    """Generate request sizes: those that hurt, and any others up to three times the largest gear."""
    return st.sampled_from(sizes_that_hurt(batching)) | st.integers(0, 3 * gears_of(batching)[-1])


def cost_tables(sizes: Sequence[int]) -> st.SearchStrategy[dict[int, float]]:
    """Generate a cost for each of these batch sizes, from 0.01 to 100: in any order, so that more rows may cost less."""
    return st.fixed_dictionaries({size: st.floats(0.01, 100) for size in sizes})
