"""Keeps measured costs true while a model runs: each launch corrects its size's estimate.

Every size has a level. A launch that took about as long moves it a little. One that took much longer or shorter moves nothing,
but three in a row on the same side do: then the level becomes their median. So one outlier changes nothing, however large it
is, and a real change is believed after three launches of the size.

A size that plans avoid would never be seen to have become cheaper. So now and then a request is run with one launch of a size
that was not seen for long. Such a plan costs at most that one launch more than the best one: the rows it leaves are fewer than
before. And it is made only once that much time has been saved up, a small share of what launches took. When the launch shows a
change, up to two more follow soon, so that it can be believed. Out of the same savings, launches of a request that would
overlap are run one after another at times: only what a launch takes by itself says anything about its size.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from anybatch._costs import CurveCosts

# A launch is "about as long" within these factors of its size's level.
_LOW: Final = 1 / 1.25
_HIGH: Final = 1.25
_WEIGHT: Final = 1 / 16  # of such a launch in the new level
_BELIEVED: Final = 3  # launches in a row that make a new level
_SHIFT: Final = 0.05  # share of the planned cost by which a level must have moved before plans are made anew
_REVIEW: Final = 32  # launches between two looks at all sizes; a power of two
_APART: Final = 8  # of so many requests with overlapping launches, one may be run without overlap
_HOARD: Final = 4  # launches of the dearest size that may be saved up for: no long time of peace pays for a burst
_UNSEEN: Final = 64  # launches after which a size that was not among them may be explored


class _Level:
    """What is known about one size.

    Attributes:
        level: what a launch costs now.
        planned: what it cost when plans were last made.
        error: standard error, as a share of the level.
        deviants: launches in a row, all above the level or all below, that were not about as long.
        seen: number of the launch that was the last of this size.
    """

    __slots__ = ("deviants", "error", "level", "planned", "seen")

    def __init__(self, level: float, error: float) -> None:
        self.level = self.planned = level
        self.error = error
        self.deviants: list[float] = []
        self.seen = 0


class LiveCosts:
    """Costs that launches correct. Thread-safe.

    Args:
        costs: as measured; one or more sizes.
        explore: share of the requests' time that may go into what plans would not do, but for what can be learnt; 0 for none.
        scale: units of the costs in a second.

    Attributes:
        attention: whether `take_changes` or `wanted` has something to say; looked at before each request.
        launches: how many were noted.
        scale: see above.
    """

    def __init__(self, costs: CurveCosts, explore: float, scale: float) -> None:
        self._measured = costs
        self._explore = explore
        self._levels = {size: _Level(costs.of(size), costs.error_of(size) / costs.of(size)) for size in costs.sizes}
        self._lock = threading.Lock()
        self._savings = 0.0
        self._most_savings = self._hoard()
        self._changed = False
        self._wanted = 0
        self._follow_up = 0
        self._overlapped = 0
        self.scale = scale
        self.launches = 0
        self.attention = False

    def note(self, size: int, cost: float) -> None:
        """Note what a launch of a size cost, in the unit of the costs; one of an unknown size is ignored.

        It has to have had the device for itself: what it waited for others is no cost of its own.
        """
        state = self._levels.get(size)
        if state is None:
            return
        with self._lock:
            self.launches += 1
            state.seen = self.launches
            level = state.level
            if level * _LOW <= cost <= level * _HIGH:
                state.level = level + _WEIGHT * (cost - level)
                if state.deviants:
                    state.deviants.clear()
            else:
                self._deviate(size, state, cost)
            if size == self._follow_up and not state.deviants:
                self._follow_up = 0
            if not self.launches % _REVIEW:
                self._review()

    def earn(self, cost: float) -> None:
        """Save up a share of what a request took."""
        # An update that is lost to another thread does not matter.
        self._savings = min(self._savings + self._explore * cost, self._most_savings)

    def may_time_apart(self, more: float) -> bool:
        """Whether a request's launches may run one after another, so that each can be noted, which takes so much longer."""
        self._overlapped += 1
        if self._overlapped % _APART or more > self._savings:
            return False
        self._savings -= max(more, 0.0)
        return True

    def _deviate(self, size: int, state: _Level, cost: float) -> None:
        if state.deviants and (state.deviants[-1] > state.level) != (cost > state.level):
            state.deviants.clear()
        state.deviants.append(cost)
        if len(state.deviants) == _BELIEVED:
            low, middle, high = sorted(state.deviants)
            state.level = middle
            state.error = max(state.error, min(high - middle, middle - low) / middle)  # one of them may be an outlier
            state.deviants.clear()
            self._changed = self.attention = True
        elif size == self._follow_up:
            self._wanted = size
            self.attention = True

    def _review(self) -> None:
        """Look whether plans are out of date, and which size to explore."""
        if any(abs(state.level - state.planned) > _SHIFT * state.planned for state in self._levels.values()):
            self._changed = self.attention = True
        self._most_savings = self._hoard()
        if self._explore and not self._wanted:
            size, state = min(self._levels.items(), key=lambda item: item[1].seen)
            if self.launches - state.seen >= _UNSEEN and self._savings >= state.level:
                self._wanted = size
                self.attention = True

    def take_changes(self) -> CurveCosts | None:
        """Return the costs as they are now if plans should be made anew, else None; asked again, None."""
        with self._lock:
            self.attention = bool(self._wanted)
            if not self._changed:
                return None
            self._changed = False
            for state in self._levels.values():
                state.planned = state.level
            return self._costs()

    def _hoard(self) -> float:
        return _HOARD * max(state.level for state in self._levels.values())

    def _costs(self) -> CurveCosts:
        return CurveCosts(
            {size: state.level for size, state in self._levels.items()},
            {size: state.level * state.error for size, state in self._levels.items()},
            source=f"{self._measured.source}; corrected by {self.launches} launches since",
            unit=self._measured.unit,
        )

    def wanted(self) -> int:
        """Return the size that the next request should have a launch of, 0 for none; asked again, none."""
        with self._lock:
            size, self._wanted = self._wanted, 0
            self.attention = self._changed
            return size

    def may_explore(self, size: int, more: float) -> bool:
        """Whether a request may cost that much more for a launch of `size`; then it is taken from what was saved up.

        Where it may not, or the request cannot have such a launch (`more` is infinite), another size has its turn.
        """
        with self._lock:
            state = self._levels[size]
            if state.deviants:  # a follow-up costs what the launch before it showed, as far as one can tell
                more += state.deviants[-1] - state.level
            if more > self._savings:
                state.seen = self.launches
                self._follow_up = 0
                return False
            self._savings -= max(more, 0.0)
            self._follow_up = size
            return True


def timed(
    execute: Callable[..., Mapping[str, Any]], live: LiveCosts, clock: Callable[[], float]
) -> Callable[..., Mapping[str, Any]]:
    """Return `execute`, which notes in `live` what its launches cost that had the session for themselves.

    Args:
        execute: as `Session.execute`.
        clock: in seconds.
    """
    tickets = itertools.count(1)
    in_progress: deque[None] = deque()
    latest = 0

    def execute_timed(inputs: Mapping[str, Any], gear: int, out: Mapping[str, Any] | None) -> Mapping[str, Any]:
        nonlocal latest
        alone = not in_progress
        in_progress.append(None)
        latest = ticket = next(tickets)
        try:
            begun = clock()
            results = execute(inputs, gear, out)
            ended = clock()
        finally:
            in_progress.pop()
        if alone and latest == ticket:  # nobody was there before, and nobody came since
            live.note(gear, (ended - begun) * live.scale)
        return results

    return execute_timed
