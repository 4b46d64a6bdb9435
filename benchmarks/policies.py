"""What other rules cost beyond the least, on latencies that others published. ``python benchmarks/policies.py``.

The latencies, and where each comes from, are in `latencies.json`: the mean latency per batch size of models on Gaudi and IPU,
as ByteMLPerf reports it, and curves of ONNX Runtime measured by us. The batch sizes of a report are the gears, and launches add
up; on the IPU the latencies were taken with several clients, so there that is a model. n is 1 to twice the largest gear.

A cell is the extra cost of a rule in %: all n together / the worst n. It is marked where an earlier program of ours found
another figure on the same latencies. Deterministic; exit status 1 where least_cost is above a rule at any n.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anybatch import POLICIES, Gears, Planner, Policy, TableCosts

LATENCIES = Path(__file__).with_name("latencies.json")
# In the order of the earlier table; cost_per_request is TensorFlow's.
RULES: tuple[Policy, ...] = ("one_gear", "round_up", "largest_first", "nearest", "cost_per_request")
# How exact "least" is: see the planner's docstring on ties.
TIE = 2e-9


@dataclass(frozen=True, slots=True)
class Row:
    """A model on a device: milliseconds per launch by batch size, and what an earlier program found, per rule, in %."""

    name: str
    latency_ms: Mapping[int, float]
    expected: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Extra:
    """What a rule costs beyond the least, as shares: of all n together, of the worst n, of the best n."""

    together: float
    worst: float
    best: float


def read_rows(document: Mapping[str, Any]) -> list[Row]:
    """Return the rows of one part of `latencies.json`."""
    return [
        Row(row["name"], {int(size): cost for size, cost in row["latency_ms"].items()}, row.get("expected", {}))
        for row in document["rows"]
    ]


def compare(row: Row) -> dict[Policy, Extra]:
    """Return what each of `RULES` costs beyond the least, over n from 1 to twice the largest gear."""
    planner = Planner(Gears(tuple(row.latency_ms)), TableCosts(row.latency_ms, unit="ms"))
    numbers = range(1, 2 * max(row.latency_ms) + 1)
    cost = {policy: np.array([planner.plan(n, policy=policy).cost for n in numbers]) for policy in POLICIES}
    least = cost["least_cost"]
    extra = {}
    for rule in RULES:
        ratios = cost[rule] / least - 1
        extra[rule] = Extra(cost[rule].sum() / least.sum() - 1, ratios.max(), ratios.min())
    return extra


def differs(extra: Extra, printed: str) -> bool:
    """Whether figures are not those of a cell such as ``"2.1 / 20"``, to the digits that it has."""
    pairs = zip((extra.together, extra.worst), printed.split(" / "), strict=True)
    half = {text: 0.5 * 10 ** -len(text.partition(".")[2]) * (1 + 1e-6) for text in printed.split(" / ")}
    return any(abs(100 * share - float(text)) > half[text] for share, text in pairs)


def print_rows(title: str, rows: Sequence[Row]) -> list[str]:
    """Print a table; return what least_cost is above."""
    print(f"\n{title}\n{'':20}{'gears':20}" + "".join(f"{rule:>17} " for rule in RULES))
    above, others = [], []
    for row in rows:
        cells = []
        for rule, extra in compare(row).items():
            text, mark = f"{100 * extra.together:.1f} / {100 * extra.worst:.0f}", " "
            if rule in row.expected and differs(extra, row.expected[rule]):
                mark = "*"
                others.append(f"* {row.name}, {rule}: the earlier program found {row.expected[rule]}")
            cells.append(f"{text + mark:>18}")
            if extra.best < -TIE:
                above.append(f"{row.name}: least_cost is above {rule} at some n")
        print(f"{row.name:20}{' '.join(map(str, row.latency_ms)):20}" + "".join(cells).rstrip())
    print(*others, sep="\n", end="\n" if others else "")
    return above


def main() -> int:
    document = json.loads(LATENCIES.read_text(encoding="utf-8"))
    published, measured = document["published"], document["measured"]
    source = published["source"]
    above = print_rows(
        f"extra cost in %, all n together / worst n: {source['repository']} at {source['commit'][:7]}", read_rows(published)
    )
    above += print_rows(
        f"the same on {measured['source']['backend']}, {measured['source']['machine']}, measured by us", read_rows(measured)
    )
    print("\n" + ("\n".join(above) or "least_cost is above no rule at any n"))
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
