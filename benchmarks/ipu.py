"""The IPU plugin on a simulated card: what waiting for strangers' rows costs a lone caller, and what it gains sixteen.

Run with ``python benchmarks/ipu.py``. All times are the simulator's: modelled, exactly repeatable, no measurement of hardware.
Goals: a lone caller waits for nothing where the core pads, and at most one timeout per request where PopRT does; of what
PopRT launches for 16 callers at least 90 % are real rows. Exits with 1 where one is missed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import anybatch
from poprt_sim import testing
from poprt_sim.anybatch_backend import backend as ipu_sim

ROW: Final = 1024  # floats per row, in and out: 4 KiB
DEVICE_TIME: Final = "affine:20,20"  # us per run, and us per row of the compiled batch: padding costs what rows cost
TIMEOUT_NS: Final = 300_000
CALLERS: Final = 16
REQUESTS: Final = 50  # of each caller
MODES: Final = ("host", "runtime")


def scaled_rows() -> onnx.ModelProto:
    """Return y = x * w, rows of 4 KiB in and out."""
    weights = numpy_helper.from_array(np.random.default_rng(1).random(ROW, np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled_rows",
        [value("x", TensorProto.FLOAT, ["rows", ROW])],
        [value("y", TensorProto.FLOAT, ["rows", ROW])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the simulated card did.

    Attributes:
        us: modelled time from the first call to the last answer.
        launches: of the device, one batch each.
        rows: of requests.
        launched_rows: those, and all padding, whoever added it.
        timeouts: waits for rows that never came.
        latencies_us: modelled time of each request.
    """

    us: float
    launches: int
    rows: int
    launched_rows: int
    timeouts: int
    latencies_us: Sequence[float]


def measure(batch: int, pad_by: str, requests: Sequence[Sequence[int]], **options: Any) -> Figures:
    """Run requests, the sizes of each caller's in turn, one thread per caller."""
    testing.reset(device_time=DEVICE_TIME)
    rng = np.random.default_rng(0)
    latencies: list[float] = []
    ends: list[float] = []
    with anybatch.open(
        scaled_rows(), backend=ipu_sim(), batch_sizes=[batch], pad_by=pad_by, timeout_ns=TIMEOUT_NS, **options
    ) as runner:
        feeds = {rows: {"x": rng.random((rows, ROW), np.float32)} for sizes in requests for rows in sizes}
        started = testing.now_us()

        def call(sizes: Sequence[int]) -> None:
            for rows in sizes:
                begin = testing.now_us()
                outputs = runner.run(feeds[rows])
                ends.append(testing.now_us())
                latencies.append(ends[-1] - begin)
                assert outputs["y"].shape == (rows, ROW)

        _together([lambda sizes=sizes: call(sizes) for sizes in requests])  # type: ignore[misc]
    testing.assert_clean()
    account = testing.ledger()
    rows = sum(map(sum, requests))
    # Zeros that the core sends are rows like any other to the device; what PopRT pads it says itself.
    assert account.real_rows == rows + (runner.stats().padded_rows if pad_by == "host" else 0)
    assert account.real_rows + account.padded_rows == account.runs * batch
    return Figures(max(ends) - started, account.runs, rows, account.runs * batch, account.flushes, latencies)


def _together(calls: Sequence[Callable[[], None]]) -> None:
    if len(calls) == 1:
        calls[0]()
        return
    errors: list[BaseException] = []

    def work(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # raised below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def lone_caller() -> bool:
    rows, met = [], True
    for pad_by in MODES:
        figures = measure(4, pad_by, [[7] * REQUESTS])
        timeouts = figures.timeouts / REQUESTS
        met &= timeouts <= (pad_by == "runtime")
        rows.append(
            (
                pad_by,
                f"{np.mean(figures.latencies_us):.1f}",
                f"{timeouts:.0f}",
                f"{figures.launches / REQUESTS:.0f}",
                f"{figures.rows / figures.launched_rows:.1%}",
            )
        )
    print_table(
        f"A lone caller, {REQUESTS} requests of 7 rows one after another, batch 4, timeout {TIMEOUT_NS / 1e3:.0f} us",
        ("pad_by", "us per request", "timeouts per request", "launches per request", "real rows"),
        rows,
    )
    return met


def many_callers() -> bool:
    rng = np.random.default_rng(2)
    requests = [[int(rows) for rows in rng.integers(1, 5, REQUESTS)] for _ in range(CALLERS)]
    rows, met = [], True
    for pad_by in MODES:
        figures = measure(16, pad_by, requests)
        real = figures.rows / figures.launched_rows
        met &= pad_by == "host" or real >= 0.9
        median, late = np.percentile(figures.latencies_us, [50, 99])
        rows.append(
            (
                pad_by,
                f"{figures.rows / figures.launches:.1f}",
                f"{real:.1%}",
                f"{figures.rows / figures.us * 1e6:,.0f}",
                f"{median / 1e3:.2f}",
                f"{late / 1e3:.2f}",
                str(figures.launches),
                str(figures.timeouts),
            )
        )
    print_table(
        f"{CALLERS} callers, each {REQUESTS} requests of 1 to 4 rows one after another, batch 16",
        ("pad_by", "real rows per launch", "real rows", "real rows/s", "ms per request, median", "p99", "launches", "timeouts"),
        rows,
    )
    return met


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> int:
    met = [lone_caller(), many_callers()]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
