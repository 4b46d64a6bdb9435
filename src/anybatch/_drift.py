"""Keeps measured costs true while a model runs: each launch corrects its size's estimate.

Every size has a level, and a spread: by how much launches differ from it. A launch within the band around the level moves both
a little. One beyond it moves nothing, but three in a row on the same side do: then the level becomes their median. So one
outlier changes nothing, however large it is, and a real change is believed after three launches of the size. The band is as
wide as the spread asks for, so that noise is not taken for change, and plans stay what they are.

A size that plans avoid would never be seen to have become cheaper. So now and then a request is run with one launch of a size
that was not seen for long. Such a plan costs at most that one launch more than the best one, and it is made only once that much
has been saved up, a small share of what launches cost. When the launch shows a change, up to two more follow soon, so that it
can be believed. Out of the same savings, launches of a request that would overlap are run one after another at times: only what
a launch takes by itself says anything about its size.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from anybatch._costs import CurveCosts

_WEIGHT: Final = 1 / 16  # of a launch in the new level
_BELIEVED: Final = 3  # launches in a row beyond the band that make a new level
# Half the band's width, as a share of the level. At three times the spread a normal launch is beyond it once in 60 times; a
# launch that takes twice as long always is.
_NARROWEST: Final = 0.25
_WIDEST: Final = 0.6
_BAND: Final = 3.0  # spreads
# Standard error of the level in spreads: it is a mean of launches with weights that sum up to those of 31 equal ones.
_ERROR: Final = 0.25
_LEAST_ERROR: Final = 0.01  # share of the level; what was measured more exactly, and on a simulator's clock, may be surer
# Plans are made anew when a level has moved by this share and by so many standard errors, or its error has shrunk by a share.
_SHIFT: Final = 0.05
_SURE: Final = 3.0
_SURER: Final = 0.02
_REVIEW: Final = 32  # launches between two looks at all sizes, and at least between two plannings
# Making plans for 64 numbers of rows anew took 4 ms, as long as hundreds of small launches. A machine that is slow by fits and
# starts would have it done at each of them: so there are a few plannings in reserve, and one more per second of launches.
_RESERVE: Final = 8
_REFILL_S: Final = 1.0
_APART: Final = (
    8  # of so many requests with overlapping launches, one may be run without overlap; the others tell what it costs
)
# Timing and noting takes about a microsecond. Where launches are shorter than this (seconds), only one in so many is timed.
_SHORT_S: Final = 50e-6
_ONE_IN: Final = 8
_HOARD: Final = 4  # launches of the dearest size that may be saved up for: no long time of peace pays for a burst
_UNSEEN: Final = 64  # launches after which a size that was not among them may be explored


class _Level:
    """What is known about one size, in the unit of the costs.

    Attributes:
        level: what a launch costs now.
        spread: mean distance of launches from it; one beyond the band counts as at its edge.
        low, high: the band, in which a launch is about as long as it should be; never down to 0.
        least_error: share of the level below which its error does not fall.
        planned, planned_error: level and error when plans were last made.
        deviants: launches in a row beyond the band, all on the same side.
        seen: number of the launch that was the last of this size.
    """

    __slots__ = ("deviants", "high", "least_error", "level", "low", "planned", "planned_error", "seen", "spread")

    def __init__(self, level: float, error: float) -> None:
        self.level = self.planned = level
        self.planned_error = error
        self.least_error = min(error / level, _LEAST_ERROR)
        self.spread = error / _ERROR
        self.deviants: list[float] = []
        self.seen = 0
        self.set_band()

    @property
    def error(self) -> float:
        """Standard error of the level."""
        return max(self.least_error * self.level, _ERROR * self.spread)

    def set_band(self) -> None:
        half = min(max(_NARROWEST * self.level, _BAND * self.spread), _WIDEST * self.level)
        self.low, self.high = self.level - half, self.level + half

    def is_outdated(self) -> bool:
        """Whether plans should be made anew for what is known now."""
        shift, error = abs(self.level - self.planned), self.error
        moved = shift > _SHIFT * self.planned and shift > _SURE * math.hypot(error, self.planned_error)
        return moved or self.planned_error - error > _SURER * self.level

    def forget_deviants(self) -> None:
        """Count launches beyond the band as noise."""
        for _ in self.deviants:
            self.spread += _WEIGHT * ((self.high - self.low) / 2 - self.spread)
        self.deviants.clear()

    def believe_deviants(self) -> None:
        low, middle, high = sorted(self.deviants)
        # One of the three may be an outlier.
        self.spread = max(self.spread * middle / self.level, min(high - middle, middle - low))
        self.level = middle
        self.deviants.clear()
        self.set_band()


class LiveCosts:
    """Costs that launches correct. Thread-safe, except that `note` and `earned` are for one thread at a time each.

    Args:
        costs: as measured; one or more sizes.
        explore: share of the launches' cost that may go into what plans would not do, but for what can be learnt; 0 for none.
        scale: units of the costs in a second.

    Attributes:
        attention: whether `take_changes` or `wanted` has something to say; looked at before each request.
        earned: what the launches of requests were predicted to cost, added up by who runs them; `explore` is a share of it.
        launches: how many were noted.
        watched: the size whose next launches tell most, since one showed a change or was paid for; 0 for none.
        scale: see above.
    """

    def __init__(self, costs: CurveCosts, explore: float, scale: float) -> None:
        self._measured = costs
        self._explore = explore
        self._levels = {size: _Level(costs.of(size), costs.error_of(size)) for size in costs.sizes}
        self._lock = threading.Lock()
        self._spent = 0.0
        self._outdated = False
        self._changed = False
        self._planned = -_REVIEW  # number of the launch after which plans were last made anew
        self._refilled = 0.0  # what has to be earned until the reserve of plannings is full again
        self._wanted = 0
        self._follow_up = 0
        self._overlapped = 0
        self.scale = scale
        self.earned = 0.0
        self.launches = 0
        self.watched = 0
        self.attention = False

    def note(self, size: int, cost: float) -> None:
        """Note what a launch of a size cost, in the unit of the costs.

        It has to have had the device for itself: what it waited for others is no cost of its own. A launch of an unknown size,
        or one during which the clock stood still, says nothing and is ignored.
        """
        state = self._levels.get(size)
        if state is None:
            return
        if state.low <= cost <= state.high:
            if state.deviants or size == self._follow_up:
                with self._lock:
                    self._end_deviation(size, state)
            change = cost - state.level
            state.level += _WEIGHT * change
            state.spread += _WEIGHT * (abs(change) - state.spread)
        elif 0.0 < cost < math.inf:
            with self._lock:
                self._deviate(size, state, cost)
        else:
            return
        self.launches = state.seen = launches = self.launches + 1
        if not launches % _REVIEW:
            with self._lock:
                self._review()

    def may_time_apart(self, predicted: float, took: Collection[float]) -> bool:
        """Whether a request's launches may run one after another, so that each can be noted; the savings then pay for it.

        Args:
            predicted: what the launches cost, one after another.
            took: seconds that such requests took lately; the shortest tells most about what overlap saves.
        """
        with self._lock:
            self._overlapped += 1
            if self._overlapped % _APART or not took:
                return False
            return self._pay(predicted - min(took) * self.scale)

    def take_changes(self) -> CurveCosts | None:
        """Return the costs as they are now if plans should be made anew, else None; asked again, None."""
        with self._lock:
            self.attention = bool(self._wanted)
            if not self._changed:
                return None
            self._changed = self._outdated = False
            self._planned = self.launches
            self._refilled = max(self._refilled, self.earned) + _REFILL_S * self.scale
            for state in self._levels.values():
                state.planned, state.planned_error = state.level, state.error
            return CurveCosts(
                {size: state.planned for size, state in self._levels.items()},
                {size: state.planned_error for size, state in self._levels.items()},
                source=f"{self._measured.source}; corrected by {self.launches} launches since",
                unit=self._measured.unit,
                splitting=self._measured.splitting,
            )

    def wanted(self) -> int:
        """Return the size that the next request should have a launch of, 0 for none; asked again, none."""
        with self._lock:
            size, self._wanted = self._wanted, 0
            self.attention = self._changed
            return size

    def may_explore(self, size: int, more: float) -> bool:
        """Whether a request may cost that much more for a launch of `size`; the savings then pay for it.

        Where it may not, or the request cannot have such a launch (`more` is infinite), another size has its turn.
        """
        with self._lock:
            state = self._levels[size]
            if state.deviants:  # a follow-up costs what the launch before it showed, as far as one can tell
                more += state.deviants[-1] - state.level
            if self._pay(more):
                self._follow_up = self.watched = size
                return True
            state.seen = self.launches
            self._follow_up = self.watched = 0
            return False

    def pay(self, cost: float) -> None:
        """Take from the savings what it cost to get ready for exploring; they may fall below nothing."""
        with self._lock:
            self._spent += cost

    def _savings(self) -> float:
        """Return what may be spent; what is beyond the most that may be saved up is forfeited."""
        savings = self._explore * self.earned - self._spent
        forfeited = max(savings - _HOARD * max(state.level for state in self._levels.values()), 0.0)
        self._spent += forfeited
        return savings - forfeited

    def _pay(self, more: float) -> bool:
        if more > self._savings():
            return False
        self._spent += max(more, 0.0)
        return True

    def _deviate(self, size: int, state: _Level, cost: float) -> None:
        if state.deviants and (state.deviants[-1] > state.level) != (cost > state.level):
            state.forget_deviants()
        state.deviants.append(cost)
        self.watched = size
        if len(state.deviants) == _BELIEVED:
            state.believe_deviants()
            self._end_deviation(size, state)
            self._outdated = True
            self._look_at_plans()
        elif size == self._follow_up:
            self._wanted = size
            self.attention = True

    def _end_deviation(self, size: int, state: _Level) -> None:
        state.forget_deviants()
        if size == self._follow_up:
            self._follow_up = 0
        if size == self.watched:
            self.watched = 0

    def _review(self) -> None:
        """Look whether plans are out of date, and which size to explore."""
        for state in self._levels.values():
            if state.seen > self.launches - _REVIEW:  # the others are as they were
                state.set_band()
                self._outdated = self._outdated or state.is_outdated()
        if self._explore and not self._wanted:
            size, state = min(self._levels.items(), key=lambda item: item[1].seen)
            if self.launches - state.seen >= _UNSEEN and self._savings() >= state.level:
                self._wanted = size
                self.attention = True
        self._look_at_plans()

    def _look_at_plans(self) -> None:
        """Ask for plans to be made anew, where they are out of date and that was not done too often."""
        in_reserve = self._refilled - self.earned <= (_RESERVE - 1) * _REFILL_S * self.scale
        if self._outdated and in_reserve and self.launches - self._planned >= _REVIEW:
            self._changed = self._outdated = any(state.is_outdated() for state in self._levels.values())
            self.attention = self._changed or bool(self._wanted)


def how_many_to_time(costs: CurveCosts, scale: float) -> int:
    """Return which share of launches is worth timing, as `timed` wants it: all, or where they are short one in a few."""
    return _ONE_IN if min(costs.points.values()) < _SHORT_S * scale else 1


def timed(
    execute: Callable[..., Mapping[str, Any]], live: LiveCosts, clock: Callable[[], float], one_in: int = 1
) -> Callable[..., Mapping[str, Any]]:
    """Return `execute`, which notes in `live` what its launches cost that had the session for themselves.

    Args:
        execute: as `Session.execute`. A launch that raises is not noted.
        clock: in seconds.
        one_in: only one in so many launches is timed, a power of two, besides those of the size that is watched.
    """
    passed_over = one_in - 1
    in_progress: deque[None] = deque()  # one entry per launch; adding, removing and counting are atomic
    begin, end = in_progress.append, in_progress.pop
    tickets = itertools.count()
    latest = -1  # ticket of the launch that began last
    note, scale = live.note, live.scale

    def execute_timed(inputs: Mapping[str, Any], gear: int, out: Mapping[str, Any] | None) -> Mapping[str, Any]:
        nonlocal latest
        begin(None)
        try:
            # In this order: of two that begin at once, none finds itself alone unless the other has ended, or sees its ticket.
            latest = ticket = next(tickets)
            if ticket & passed_over and gear != live.watched:
                return execute(inputs, gear, out)
            alone = len(in_progress) == 1
            begun = clock()
            results = execute(inputs, gear, out)
            ended = clock()
            if alone and latest == ticket:
                # Only one launch can get here at a time: as long as it is in progress, no other is alone.
                note(gear, (ended - begun) * scale)
        finally:
            end()
        return results

    return execute_timed
