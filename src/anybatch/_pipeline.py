"""Pipelining over a pool of threads: requests in order and bounded, and the launches of one request side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
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


def run_side_by_side(steps: Sequence[Callable[[], None]], pool: Executor, most: int) -> None:
    """Call every step once, in this thread and in those of a pool that are free, up to `most` at once.

    This thread works as well, and waits only for steps that have begun: so it may itself be one of the pool's, and a pool
    that is busy with other things only makes it slower. When a step fails, no other is begun.

    Raises:
        BaseException: of the first step, in their order, that failed; those that had begun have ended.
    """
    waiting = iter(enumerate(steps))
    failures: list[tuple[int, BaseException]] = []
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                number, step = (None, None) if failures else next(waiting, (None, None))
            if number is None or step is None:
                return
            try:
                step()
            except BaseException as error:  # raised below, in the caller's thread
                failures.append((number, error))

    helpers: list[Future[None]] = []
    try:
        for _ in range(most - 1):
            helpers.append(pool.submit(work))  # noqa: PERF401  # one by one: those there are are waited for if the next fails
        work()
    finally:
        wait([helper for helper in helpers if not helper.cancel()])
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
