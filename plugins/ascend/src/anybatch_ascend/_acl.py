"""pyACL, typed where it enters: calls that check their status, the process's one `init`, contexts, and giving things back."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import anybatch
from anybatch_ascend.status import AclDeviceError, AclError, error_for

LOG: Final = logging.getLogger(__name__)

REPEAT_INITIALIZE: Final = 100002
REPORT_TIMEOUT: Final = 507012
_CONTEXT_GONE: Final = 107000
_NO_CONTEXT: Final = 107002

HUGE_FIRST: Final = 0
HOST_TO_DEVICE: Final = 1
DEVICE_TO_HOST: Final = 2
NO_BLOCK: Final = 0
EVENT_SYNC: Final = 1


class EndsAtExit(Protocol):
    """What uses acl until it is closed."""

    def close_at_exit(self) -> bool:
        """Close; return whether nothing uses acl any more."""
        ...


_known: set[int] = set()  # ids of acl modules that were used
_finalizers: set[int] = set()  # ids of acl modules that are finalized at exit
_in_use: weakref.WeakSet[EndsAtExit] = weakref.WeakSet()
_process = threading.Lock()


def end_at_exit(user: EndsAtExit) -> None:
    """Have something closed before acl is finalized at exit, if it is still open then. Call it after `Acl.initialize`."""
    with _process:
        _in_use.add(user)


def _end(module: Any, pid: int) -> None:
    """Close what is open, then finalize: the vendor's order, which garbage collection at exit would not keep.

    What a thread still executes is left to the driver, which tidies up after the process: freeing it here could crash.
    """
    if os.getpid() != pid:  # a child of a fork has nothing of its own to give back
        return
    busy = [user for user in list(_in_use) if not user.close_at_exit()]
    if not busy and id(module) in _finalizers:
        module.finalize()


class Acl:
    """The `acl` module, or a simulator of it, for one session.

    Args:
        module: what ``import acl`` gave.
        backend: name of our backend, for errors.
    """

    def __init__(self, module: Any, backend: str) -> None:
        self.module = module
        self.backend = backend

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function by its dotted name without ``acl.``, such as ``"rt.malloc"``.

        Raises:
            BackendUnavailableError: this CANN has no such function.
        """
        found = self._find(name)
        if found is None:
            raise anybatch.BackendUnavailableError(
                f"{self.backend}: this pyACL has no acl.{name}: install a newer CANN (tried with the interface of CANN 6 to 8)"
            )
        return found

    def call(self, name: str, *args: Any) -> Any:
        """Call a function that reports a status, and return what it returns beside it: None, a value, or a tuple.

        Raises:
            AclError: the status is not 0; see `anybatch_ascend.status`.
        """
        answer = self.function(name)(*args)
        if isinstance(answer, tuple):
            *values, code = answer
        else:
            values, code = [], answer
        if code:
            raise self.error(name, code)
        return values[0] if len(values) == 1 else tuple(values) if values else None

    def make(self, name: str, *args: Any) -> int:
        """Call a function that returns a handle, and nothing else.

        Raises:
            AclDeviceError: it returned none.
        """
        handle: int = self.function(name)(*args)
        if not handle:
            detail = self._detail()
            error = AclDeviceError(
                f"it returned no handle{': ' if detail else ''}{detail}", backend=self.backend, operation=f"acl.{name}"
            )
            error.function, error.code, error.code_name, error.detail = f"acl.{name}", 0, "no handle", detail
            raise error
        return handle

    def has(self, name: str) -> bool:
        """Return whether this CANN has a function, by its dotted name without ``acl.``."""
        return self._find(name) is not None

    def _find(self, name: str) -> Callable[..., Any] | None:
        found = self.module
        for part in name.split("."):
            found = getattr(found, part, None)
        return found  # type: ignore[no-any-return]  # an untyped SDK

    def error(self, name: str, code: int) -> AclError:
        """Return the error for a status that the function of that name returned, with the runtime's own message."""
        return error_for(self.backend, f"acl.{name}", code, self._detail())

    def failure(self, name: str, code: int) -> AclError:
        """Return the error for a status of a call that executes or frees: then it is always the device's."""
        return error_for(self.backend, f"acl.{name}", code, self._detail(), move="device")

    def forget(self) -> None:
        """Drop the runtime's message about a failure that was none to us, so that no later error shows it."""
        self._detail()

    def _detail(self) -> str:
        read = getattr(self.module, "get_recent_err_msg", None)  # older releases have none
        return str(read() or "") if read is not None else ""

    def initialize(self, config: str | None = None) -> None:
        """Call ``acl.init``, which another library, or another runner, may have done before.

        Who initialized also finalizes, at exit: in between, nobody can know who else in this process still uses acl.

        Raises:
            AclError: it failed.
        """
        code = self.module.init(*([config] if config else []))
        if code not in (0, REPEAT_INITIALIZE):
            raise self.error("init", code)
        if code:
            self.forget()
        with _process:
            if id(self.module) not in _known:
                _known.add(id(self.module))
                atexit.register(_end, self.module, os.getpid())
            if code == 0:
                _finalizers.add(id(self.module))

    def current_context(self) -> int:
        """Return the calling thread's context, 0 if it has none.

        Raises:
            AclError: the runtime does not say.
        """
        context, code = self.module.rt.get_context()
        if code and code != _NO_CONTEXT:
            raise self.failure("rt.get_context", code)
        if code:
            self.forget()
        return 0 if code else int(context)

    @contextlib.contextmanager
    def own_context(self) -> Iterator[None]:
        """Give the thread back the context it has now, if it has one, whatever happens inside.

        Raises:
            AclError: the runtime does not say which it is; then nothing inside was run.
        """
        before = self.current_context()
        try:
            yield
        finally:
            if before:
                self.restore(before)

    def restore(self, context: int) -> None:
        """Make a context of another library current again.

        Raises:
            AclError: it could not be done, on a second try either.
        """
        failed = self.give_back("rt.set_context", context)
        if failed is not None and failed.code != _CONTEXT_GONE:  # destroyed meanwhile: nothing is left to go back to
            raise failed

    def give_back(self, name: str, *args: Any) -> AclError | None:
        """Call a function that must not fail, and call it once more if it does; return the error of the second failure."""
        function = self.function(name)
        code = function(*args)
        if code:
            LOG.warning("%s: acl.%s failed with status %s, trying once more", self.backend, name, code)
            code = function(*args)
            if not code:
                self.forget()
        return self.failure(name, code) if code else None


class Releases:
    """What has to be given back, last first. Not thread-safe."""

    def __init__(self, acl: Acl) -> None:
        self._acl = acl
        self._calls: list[tuple[str, tuple[Any, ...]]] = []

    def add(self, name: str, *args: Any) -> None:
        """Note a call that gives something back."""
        self._calls.append((name, args))

    def leave_all_but_the_first(self) -> None:
        """Forget all that was noted after the first: it is left to the runtime."""
        del self._calls[1:]

    def run(self) -> AclError | None:
        """Make all the calls, each of them twice where the first fails; return the error of one that failed twice."""
        failed: AclError | None = None
        while self._calls:
            name, args = self._calls.pop()
            failed = self._acl.give_back(name, *args) or failed
        return failed
