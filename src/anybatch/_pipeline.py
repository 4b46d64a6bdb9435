"""Ordered, bounded pipelining of calls over a pool of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(submit: Callable[[Item], Future[Result]], items: Iterable[Item], *, in_flight: int) -> Iterator[Result]:
    """Yield the result of each item, in order, with up to `in_flight` items submitted and not yet yielded.

    Items are drawn in the caller's thread, and only when a result is asked for. When an item fails, or drawing one does,
    the results before it are yielded first, then the error is raised. However it ends (exhausted, an error,
    ``close()``, an abandoned loop), what was submitted and has not started is cancelled, what runs is waited for, and
    nothing further is drawn.
    """
    pending: deque[Future[Result]] = deque()
    source = iter(items)
    failure: Exception | None = None
    try:
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:  # raised below, after the results that came before it
                failure = error
                break
            pending.append(submit(item))
            del item
            if len(pending) >= in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
