"""Ragged streams of requests on ONNX Runtime: ours, calibrated, beside simpler ways. ``python benchmarks/streams.py``.

All ways share one InferenceSession, so that no way's threads or weights get in another's, and take turns request by request,
in an order of their own each time. Sending n rows as they are is `InferenceSession.run` itself, with nothing of ours. Ours is
calibrated first, in the same process; besides, with launches correcting the calibration as they come ("corrected"), which on
ONNX Runtime has to be asked for. Each model runs in a process of its own, once with one thread and once with two.

Figures are times of whole streams over that of sending them as they are: median of the repetitions (least to most). With one
thread it is processor time, which other work on a shared machine hardly changes; with two, whose waiting for one another takes
processor time as well, it is the wall clock's. Calibrations always go by the wall clock.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any, Final

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from _models import conv_net, mlp, transformer_block
from anybatch import Array, Batching, Gears, ModelSpec, Policy, Runner, Session
from anybatch._backends._onnxruntime_session import open_session

GEARS: Final = (1, 2, 4, 8, 16, 32)
LARGEST: Final = 64  # to be calibrated where any size can be launched
MODELS: Final[Mapping[str, Callable[[], onnx.ModelProto]]] = {
    "convolutional net, 64 x 64": conv_net,
    "MLP 256-1024-1024-10": lambda: mlp(256, 1024, 1024, 10),
    "transformer block, 32 tokens of 256": transformer_block,
}
THREADS: Final = (1, 2)
CALIBRATION_S: Final = 4.0
STREAM_S: Final = 4.0  # for all ways together
REPEATS: Final = 5
LEAST_REQUESTS: Final = 4
MOST_REQUESTS: Final = 400

AS_THEY_ARE: Final = "as they are"
ANY: Final = "ours, any size"
ANY_CORRECTED: Final = "ours, any size, corrected"
OURS: Final = "gears: ours"
OURS_CORRECTED: Final = "gears: ours, corrected"
RULES: Final[Mapping[str, Policy]] = {
    "gears: round up": "round_up",
    "gears: largest first": "largest_first",
    "gears: one": "one_gear",
}


def uniform(random: np.random.Generator) -> int:
    return int(random.integers(1, 33))


def geometric(random: np.random.Generator) -> int:
    return int(random.geometric(1 / 4))


def bursty(random: np.random.Generator) -> int:
    return int(random.integers(24, 97) if random.random() < 0.2 else random.integers(1, 5))


def large(random: np.random.Generator) -> int:
    return int(random.integers(64, 129))


STREAMS: Final[Mapping[str, Callable[[np.random.Generator], int]]] = {
    "uniform 1..32": uniform,
    "geometric, mean 4": geometric,
    "bursty: 1..4, a fifth 24..96": bursty,
    "large, 64..128": large,
}


@dataclass(frozen=True, slots=True)
class Shared:
    """A session that somebody else closes, with launches of its own choice."""

    session: Session
    batching: Batching

    @property
    def spec(self) -> ModelSpec:
        """The shared session's."""
        return self.session.spec

    @property
    def concurrency(self) -> int | None:
        """The shared session's."""
        return self.session.concurrency

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        """Execute on the shared session."""
        return self.session.execute(inputs, gear, out)

    def close(self) -> None:
        """Leave it open."""


def measure(name: str, threads: int) -> dict[str, Any]:
    """Return ratios by stream and way, one for each repetition, and what else the tables say."""
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    model = MODELS[name]().SerializeToString()
    session = open_session(model, device=0, batch_sizes=None, options={"session_options": options})
    plain = session._runtime.session
    (spec,) = session.spec.inputs
    shape = tuple(int(size) for size in spec.shape[1:])
    most = np.random.default_rng(0).standard_normal((128, *shape)).astype(np.float32)
    runners = {ANY: Runner(session, adapt=False), OURS: Runner(Shared(session, Gears(GEARS)), adapt=False)}
    for runner in runners.values():
        runner.calibrate(seconds=CALIBRATION_S, max_rows=LARGEST, inputs={spec.name: most[:LARGEST]}, save=False)
    curve = {each.size: each.median_s * 1e3 for each in runners[ANY].calibration.measurements}
    plans = {rows: str(runners[ANY].plan(rows)) for rows in (8, 24, 32, 64, 128)}
    calibrations = {title: runner.calibration for title, runner in runners.items()}
    runners[ANY_CORRECTED] = Runner(session, costs=calibrations[ANY])
    runners[OURS_CORRECTED] = Runner(Shared(session, Gears(GEARS)), costs=calibrations[OURS])
    runners |= {title: Runner(Shared(session, Gears(GEARS)), policy=rule) for title, rule in RULES.items()}
    ways: dict[str, Callable[[dict[str, Array]], object]] = {AS_THEY_ARE: functools.partial(plain.run, None)}
    ways |= {title: runner.run for title, runner in runners.items()}
    clock = thread_time if threads == 1 else perf_counter
    ratios = {}
    for stream, draw in STREAMS.items():
        random = np.random.default_rng(1)
        sizes = [draw(random) for _ in range(MOST_REQUESTS)]
        begun = perf_counter()
        run_stream(ways, sizes[:LEAST_REQUESTS], spec.name, most, clock)  # pages in, makes plans
        took = (perf_counter() - begun) / LEAST_REQUESTS
        sizes = sizes[: max(LEAST_REQUESTS, int(STREAM_S / REPEATS / took))]
        totals = [run_stream(ways, sizes, spec.name, most, clock) for _ in range(REPEATS)]
        ratios[stream] = {way: [total[way] / total[AS_THEY_ARE] for total in totals] for way in ways}
        ratios[stream]["requests"] = len(sizes)
    for runner in runners.values():
        runner.close()  # the first one closes the session, the others what they have besides
    return {"curve": curve, "plans": plans, "ratios": ratios}


def run_stream(
    ways: Mapping[str, Callable[[dict[str, Array]], object]],
    sizes: list[int],
    name: str,
    most: Array,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Run requests of these sizes, each in every way before the next; return the seconds that each way took."""
    totals = dict.fromkeys(ways, 0.0)
    order = list(ways)
    random = np.random.default_rng(len(sizes))
    for rows in sizes:
        random.shuffle(order)
        feed = {name: most[:rows]}
        for way in order:
            begun = clock()
            ways[way](feed)
            totals[way] += clock() - begun
    return totals


def main() -> None:
    console = Console(width=150)
    begun = perf_counter()
    for name in MODELS:
        for threads in THREADS:
            command = [sys.executable, __file__, name, str(threads)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            what = "1 thread; processor time" if threads == 1 else f"{threads} threads; wall time"
            table = Table(title=f"{name}; {what} over that of sending requests as they are")
            table.add_column("way")
            for stream in STREAMS:
                table.add_column(f"{stream}\n{found['ratios'][stream].pop('requests')} requests", justify="right")
            for way in (AS_THEY_ARE, ANY, ANY_CORRECTED, OURS, OURS_CORRECTED, *RULES):
                figures = [found["ratios"][stream][way] for stream in STREAMS]
                table.add_row(way, *(f"{np.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in figures))
            console.print(table)
            one = found["curve"]["1"]
            curve = ", ".join(
                f"{int(size)}: {cost:.3g} ({cost / one / int(size):.2f})" for size, cost in found["curve"].items()
            )
            console.print(f"  ms by rows (a row, over one alone): {curve}", highlight=False)
            console.print("  any size: " + "; ".join(f"{rows} rows as {plan}" for rows, plan in found["plans"].items()))
    console.print(f"took {perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
