"""Real-time mode: real time beside virtual time, so that a program takes as long as the model says.

Off by default; `Clock` asks here only when it is on. Then the two follow each other:

* Virtual time never lags behind real time: what a program does between two acl calls takes the time that it takes.
* No call returns before the real time that belongs to the virtual time of its end.
* What the simulator itself takes longer than the model says (ONNX Runtime computes, Python keeps the books) is no virtual
  time: the clock stands still for as long, and the ledger says how long that was in all.

So virtual times are no longer the same in every run.
"""

from __future__ import annotations

import ctypes
import time

SPIN_S = 60e-6  # the kernel wakes a sleeper about this late: the rest of a wait is spun, or short calls would double
_SLICE_S = 0.1  # between two slices of a sleep that holds the GIL, Python handles signals

# PyDLL, unlike CDLL, does not release the GIL around a call: the other Python threads stand still, as they do while a
# function of the real module holds it.
_usleep = ctypes.PyDLL(None).usleep
_usleep.argtypes = [ctypes.c_uint]


class Pace:
    """Which real time belongs to which virtual time.

    Args:
        factor: real seconds per virtual second, more than 0.

    Attributes:
        late_s: real time for which the clock stood still, because the simulator was slower than the model.
    """

    def __init__(self, factor: float) -> None:
        self._real_per_us = factor / 1e6
        self._origin: float | None = None  # the real time of virtual time 0; known from the first call on
        self.late_s = 0.0

    def now(self) -> float:
        """The virtual time, in microseconds, that real time has reached."""
        moment = time.monotonic()
        if self._origin is None:
            self._origin = moment
        return (moment - self._origin) / self._real_per_us

    def seconds_until(self, moment: float) -> float:
        """Real time left until a virtual time; negative when it has passed."""
        return (moment - self.now()) * self._real_per_us

    def forgive(self, moment: float) -> None:
        """A call that should have ended at virtual time `moment` ends now: if that is later, the clock stood still."""
        late_s = -self.seconds_until(moment)
        if late_s > 0 and self._origin is not None:
            self._origin += late_s
            self.late_s += late_s


def sleep_with_gil(seconds: float) -> None:
    """Sleep, at most one slice, while no other Python thread runs. A signal ends it early."""
    _usleep(int(min(seconds, _SLICE_S) * 1e6))
