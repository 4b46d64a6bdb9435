"""The Ascend plugin on a simulated card, beside a client that copies, executes and copies in turn.

Run with ``python benchmarks/ascend.py``. Device times are the simulator's: modelled, exactly repeatable, no measurement of
hardware. Host times are real. Goals: `map` takes at most 1.05 times what its busiest engine is busy; other Python
threads go on while a request executes; less than 15 us of host time per launch beyond the acl calls.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import acl_sim
import anybatch
from _serial_client import RULES, SerialClient
from acl_sim import testing
from anybatch_ascend_sim import backend as ascend_sim

GEARS: Final = (1, 2, 4, 8, 16)
REQUESTS: Final = 200
ROW: Final = 16384  # floats per row, in and out: 64 KiB
LAUNCH_US: Final = 30.0
# Microseconds per row on the copy-in, compute and copy-out engines; a launch costs LAUNCH_US more, a copy 8 us.
MODELS: Final = {"copy-bound": (40.0, 15.0, 10.0), "balanced": (25.0, 25.0, 20.0), "compute-bound": (8.0, 40.0, 8.0)}
COLUMNS: Final = ("cost model", "client", "makespan ms", "busiest engine ms", "makespan / busiest", "compute ms", "launches")


def scaled_rows() -> onnx.ModelProto:
    """Return y = x * w, rows of 64 KiB in and out."""
    weights = numpy_helper.from_array(np.random.default_rng(1).random(ROW, np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled_rows",
        [value("x", TensorProto.FLOAT, ["rows", ROW])],
        [value("y", TensorProto.FLOAT, ["rows", ROW])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def cost_model(folder: Path, name: str, copy_in: float, compute: float, copy_out: float, launch: float = LAUNCH_US) -> str:
    bytes_per_row = ROW * 4
    path = folder / f"{name}.json"
    figures = {
        "name": name,
        "host_call_us": 1.0,
        "copy_in_gb_s": bytes_per_row / copy_in / 1e3,
        "copy_out_gb_s": bytes_per_row / copy_out / 1e3,
        "on_device_gb_s": 150.0,
        "copy_overhead_us": 8.0,
        "affine": {"*": [launch, compute]},
    }
    path.write_text(json.dumps(figures))
    return str(path)


class Account:
    """What a simulated card did from here on."""

    def __init__(self) -> None:
        ledger = testing.ledger()
        self._time, self._busy = ledger.device_time_us, dict(ledger.busy_us)
        self._launches = self._count()

    @staticmethod
    def _count() -> int:
        return sum(sum(gears.values()) for gears in testing.ledger().launches.values())

    def read(self) -> tuple[float, dict[str, float], int]:
        """Return device time in us, busy us per engine, and launches since then."""
        ledger = testing.ledger()
        busy = {engine: us - self._busy.get(engine, 0.0) for engine, us in ledger.busy_us.items()}
        return ledger.device_time_us - self._time, busy, self._count() - self._launches


def open_runner(model: Path, compute_us: float, **options: Any) -> anybatch.Runner:
    costs = {gear: LAUNCH_US + compute_us * gear for gear in GEARS}
    return anybatch.open(model, backend=ascend_sim(), costs=costs, independent=["y"], **options)


def makespans(model: Path, folder: Path, requests: list[np.ndarray[Any, Any]]) -> None:
    rows = []
    for name, (copy_in, compute, copy_out) in MODELS.items():
        device_time = cost_model(folder, name, copy_in, compute, copy_out)
        for title, options in {
            "anybatch, map": {},
            "anybatch, map, callback every 4": {"callback_every": 4},
            "anybatch, map, no callbacks": {"callback_every": 0},
        }.items():
            testing.reset(device_time=device_time)
            with open_runner(model, compute, **options) as runner:
                account = Account()
                for _ in runner.map([{"x": request} for request in requests]):
                    pass
                rows.append((name, title, *_figures(account)))
            testing.assert_clean()
        for rule in RULES:
            testing.reset(device_time=device_time)
            client = SerialClient(acl_sim, model, (ROW * 4, ROW * 4))
            account = Account()
            for request in requests:
                client.run(request, np.empty_like(request), rule)
            rows.append((name, f"copies, executes, copies; {rule}", *_figures(account)))
    print_table(
        f"{REQUESTS} requests of 1 to 40 rows, modelled device time",
        COLUMNS,
        rows,
    )


def one_large_request(model: Path, folder: Path) -> None:
    """Makespan of one request of 1,000 rows, whose launches run side by side."""
    images = np.random.default_rng(4).random((1000, ROW), np.float32)
    rows = []
    for name, (copy_in, compute, copy_out) in MODELS.items():
        device_time = cost_model(folder, name, copy_in, compute, copy_out)
        testing.reset(device_time=device_time)
        with open_runner(model, compute) as runner:
            account = Account()
            runner.run({"x": images})
            rows.append((name, "anybatch, run", *_figures(account)))
        testing.assert_clean()
        testing.reset(device_time=device_time)
        client = SerialClient(acl_sim, model, (ROW * 4, ROW * 4))
        account = Account()
        client.run(images, np.empty_like(images), RULES[0])
        rows.append((name, f"copies, executes, copies; {RULES[0]}", *_figures(account)))
    print_table("One request of 1,000 rows, modelled device time", COLUMNS, rows)


def _figures(account: Account) -> tuple[str, str, str, str, str]:
    makespan, busy, launches = account.read()
    busiest = max(busy.values())
    return (
        f"{makespan / 1e3:.1f}",
        f"{busiest / 1e3:.1f}",
        f"{makespan / busiest:.3f}",
        f"{busy['compute'] / 1e3:.1f}",
        str(launches),
    )


class Counter(threading.Thread):
    """A Python thread that does nothing but count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.steps = 0
        self.stopping = False

    def run(self) -> None:
        """Count until told to stop."""
        while not self.stopping:
            self.steps += 1


class Watched:
    """A module whose functions tell, with everything beneath it: `before` is called before each, `after` behind it."""

    def __init__(self, module: Any, before: Callable[[str], None], after: Callable[[str], None]) -> None:
        self._module, self._before, self._after = module, before, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        watched = self._watch(name, found) if callable(found) else Watched(found, self._before, self._after)
        setattr(self, name, watched)
        return watched

    def _watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        before, after = self._before, self._after

        def call(*args: Any) -> Any:
            before(name)
            try:
                return function(*args)
            finally:
                after(name)

        return call


def other_threads(model: Path, folder: Path) -> None:
    """How far another Python thread gets while the device executes for 50 ms, in real-time mode."""
    device_time = cost_model(folder, "slow", 8.0, 0.0, 8.0, launch=50_000.0)
    images = np.random.default_rng(3).random((16, ROW), np.float32)
    rows = []
    for title, waits_in in {"anybatch": "synchronize_stream", "copies, executes, copies": "execute"}.items():
        testing.reset(device_time=device_time, real_time=1.0)
        counter = Counter()
        marks: list[tuple[int, float]] = []

        def mark(name: str, waits_in: str = waits_in, marks: list[Any] = marks, counter: Counter = counter) -> None:
            if name == waits_in:
                marks.append((counter.steps, time.perf_counter()))

        acl = Watched(acl_sim, mark, mark)
        if title == "anybatch":
            with anybatch.open(
                model,
                backend=ascend_sim(lambda acl=acl: acl),  # type: ignore[misc]
                policy="round_up",
                independent=["y"],
            ) as runner:
                _twice(lambda runner=runner: runner.run({"x": images}), counter)  # type: ignore[misc]
        else:
            client = SerialClient(acl, model, (ROW * 4, ROW * 4))
            _twice(lambda client=client: client.run(images, np.empty_like(images), RULES[0]), counter)  # type: ignore[misc]
        (steps, started), (steps_after, ended) = marks[-2:]
        alone = Counter()
        alone.start()
        time.sleep(ended - started)
        alone.stopping = True
        alone.join()
        rows.append((title, f"acl: {waits_in}", f"{(ended - started) * 1e3:.0f}", f"{(steps_after - steps) / alone.steps:.1%}"))
    print_table(
        "Another Python thread while the device executes for 50 ms (real-time mode)",
        ("client", "waits in", "ms", "steps of the other thread, of what it makes alone"),
        rows,
    )


def _twice(call: Callable[[], object], counter: Counter) -> None:
    """Make a call once alone, since the first execution loads the graph, and once beside the counting thread."""
    call()
    counter.start()
    call()
    counter.stopping = True
    counter.join()


def host_overhead(folder: Path) -> None:
    """Host time of a launch beyond the acl calls in it, which are timed one by one and taken off."""
    rows = []
    model = _tiny(folder)
    clock = time.perf_counter
    for request_rows in (8, 5):
        testing.reset(device_time="none")
        times = {"began": 0.0, "spent": 0.0}

        def before(_: str, times: dict[str, float] = times) -> None:
            times["began"] = clock()

        def after(_: str, times: dict[str, float] = times) -> None:
            times["spent"] += clock() - times["began"]

        watched = Watched(acl_sim, before, after)
        with anybatch.open(
            model,
            backend=ascend_sim(lambda acl=watched: acl),
            callback_every=0,
            policy="round_up",  # type: ignore[misc]
            independent=["y"],
        ) as runner:
            session = runner._session  # type: ignore[attr-defined]  # the launch itself, without the core around it
            inputs = {"x": np.ones((request_rows, 16), np.float32)}
            beyond = []
            for _ in range(3000):
                times["spent"], started = 0.0, clock()
                session.execute(inputs, 8, None)
                beyond.append((clock() - started - times["spent"]) * 1e6)
        low, middle, high = np.percentile(beyond[200:], [10, 50, 90])
        rows.append((f"{request_rows} rows on gear 8", f"{low:.1f}", f"{middle:.1f}", f"{high:.1f}"))
    print_table(
        "Host time of one launch beyond its acl calls, us (goal: below 15; the watching itself is counted as ours)",
        ("launch", "p10", "median", "p90"),
        rows,
    )


def _tiny(folder: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return compiled(proto, folder / "tiny.om", (1, 4, 8))


def compiled(model: onnx.ModelProto, path: Path, gears: Sequence[int]) -> Path:
    anybatch.compile(model, backend=ascend_sim(), batch_sizes=gears, output=path, soc_version="Ascend310P3")
    return path


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    rng = np.random.default_rng(0)
    requests = [rng.random((int(rows), ROW), np.float32) for rows in rng.integers(1, 41, REQUESTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = compiled(scaled_rows(), folder / "scaled_rows.om", GEARS)
        makespans(model, folder, requests)
        one_large_request(model, folder)
        other_threads(model, folder)
        host_overhead(folder)


if __name__ == "__main__":
    main()
