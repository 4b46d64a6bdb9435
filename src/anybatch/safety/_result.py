"""What the analysis found: per output a verdict, and the way there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from anybatch.safety._picture import Box, Look, draw

Verdict = Literal["independent", "coupled", "unknown"]
Certainty = Literal["told", "named", "agreed", "proven", "guessed"]

_WORST: Final[tuple[Verdict, ...]] = ("coupled", "unknown", "independent")
_MOST_WAYS: Final = 8  # side by side in a picture


@dataclass(frozen=True, slots=True)
class Step:
    """One node on the way of the rows.

    Attributes:
        node: its name or, where it has none, its first output's; of a model's input, the input's.
        operator: its type; "Input" for a model's input.
        tensor: what it makes.
        rows: where that holds the rows, in words.
    """

    node: str
    operator: str
    tensor: str
    rows: str


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """Which axis of an input carries rows.

    Attributes:
        axis: None for a tensor without rows.
        rows_per_row: how many entries along the axis one row has.
        certainty: how this is known. "told": the caller said so. "named": the dimension is named like a batch. "agreed":
            several inputs share it. "proven": the analysis followed the rows there. "guessed": nothing speaks for another.
    """

    name: str
    axis: int | None
    rows_per_row: int
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class OutputSafety:
    """Whether an output's rows depend on one another.

    Attributes:
        verdict: "independent": row i depends on row i and on the un-batched inputs only, in the same way for every i and every
            number of rows, so that padding and splitting change nothing but last bits. "coupled": rows, their positions or
            their number enter into other rows. "unknown": neither is shown.
        node: the node that couples the rows, or at which the proof ended; None where no single one does.
        reason: one sentence.
        chain: the way of the rows from an input to this output or to that node.
        batch_axis: the axis that holds the rows; None where it holds none, or that is not known.
        rows_per_row: how many entries along that axis one row has.
        certainty: how the axis is known, see `BatchAxis`.
    """

    name: str
    verdict: Verdict
    node: str | None
    reason: str
    chain: tuple[Step, ...]
    batch_axis: int | None
    rows_per_row: int
    certainty: Certainty

    @property
    def short_reason(self) -> str:
        """The reason without the names of node and output, to stand beside them."""
        beginning = f"node {self.node!r} ("
        if not self.reason.startswith(beginning):
            return self.reason.replace(f"row i of {self.name!r}", "row i", 1)
        operator, _, does = self.reason.removeprefix(beginning).partition(") ")
        return f"{operator} {does}"


@dataclass(frozen=True, slots=True)
class Safety:
    """Whether padding and splitting change the answers of a model."""

    inputs: tuple[BatchAxis, ...]
    outputs: tuple[OutputSafety, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the outputs' verdicts."""
        verdicts = {output.verdict for output in self.outputs}
        return next(verdict for verdict in _WORST if verdict in verdicts)

    def to_json(self) -> dict[str, Any]:
        """Return the whole as dicts, lists, strings and numbers, for `json.dumps`."""
        return {
            "verdict": self.verdict,
            "inputs": [asdict(each) for each in self.inputs],
            "outputs": [{**asdict(each), "chain": [asdict(step) for step in each.chain]} for each in self.outputs],
        }

    def __str__(self) -> str:
        return "\n".join(f"{output.name}: {output.verdict}: {output.reason}" for output in self.outputs)

    def to_dot(self) -> str:
        """Return a drawing of the rows' ways in Graphviz's language: red where they couple, grey where it is unknown."""
        lines = ["digraph safety {", "  node [shape=box, style=filled, fillcolor=white];"]
        edges: dict[tuple[str, str, str], None] = {}
        nodes: dict[str, str] = {}
        for output in self.outputs:
            for step in output.chain:
                nodes.setdefault(step.node, _drawn(step.node, f"{step.operator}\n{step.node}", "white"))
            for before, after in zip(output.chain, output.chain[1:], strict=False):
                edges[before.node, after.node, before.rows] = None
            if output.node is not None and output.verdict != "independent":
                operator = next((step.operator for step in output.chain if step.node == output.node), "")
                color = "tomato" if output.verdict == "coupled" else "lightgrey"
                nodes[output.node] = _drawn(output.node, f"{operator}\n{output.node}\n{output.reason}", color)
                if output.chain and output.chain[-1].node != output.node:  # a node of a body: the chain ends around it
                    edges[output.chain[-1].node, output.node, ""] = None
            end = output.node if output.verdict != "independent" and output.node else _last(output)
            nodes[f"output {output.name}"] = _drawn(f"output {output.name}", f"{output.name}\n{output.verdict}", "lightblue")
            if end is not None:
                edges[end, f"output {output.name}", ""] = None
        lines += nodes.values()
        lines += [f"  {_quoted(a)} -> {_quoted(b)} [label={_quoted(text)}];" for a, b, text in edges]
        return "\n".join([*lines, "}"]) + "\n"

    def to_svg(self) -> str:
        """Return a picture of the rows' ways, each step a box: red where they couple, grey where the proof ends.

        Only ways to outputs that are not independent are drawn, where there are such, the worst first. At the bottom it says
        what is left out. Equal findings make equal pictures.
        """
        ways: dict[object, list[OutputSafety]] = {}
        for output in sorted(self.outputs, key=lambda each: _WORST.index(each.verdict)):
            if output.verdict != "independent" or self.verdict == "independent":
                alike = output.name if output.verdict == "independent" else (output.node, output.reason, output.chain)
                ways.setdefault(alike, []).append(output)
        shown = [output.name for outputs in [*ways.values()][:_MOST_WAYS] for output in outputs]
        left_out = [f"{each.name} ({each.verdict})" for each in self.outputs if each.name not in shown]
        note = f"not drawn: {', '.join(left_out)}" if left_out else ""
        title = f"Way of the rows by the graph: {self.verdict}"
        return draw(title, [_way(outputs) for outputs in [*ways.values()][:_MOST_WAYS]], note)


def _way(outputs: list[OutputSafety]) -> list[Box]:
    """Return the boxes of the way to outputs that share it."""
    output, names = outputs[0], ", ".join(each.name for each in outputs)
    look: Look = {"independent": "good", "unknown": "doubtful", "coupled": "bad"}[output.verdict]  # type: ignore[assignment]
    ending = Box(f"output{'s' * (len(outputs) > 1)} {names}", [output.verdict], look)
    if output.verdict == "independent":
        ending = Box(ending.heading, [output.verdict, _rows_of(output)], look)
        return [*(Box(step.operator, [step.node, step.rows]) for step in output.chain), ending]
    if output.node is None:
        return [
            *(Box(step.operator, [step.node, step.rows]) for step in output.chain),
            Box(ending.heading, [output.verdict, output.reason], look),
        ]
    mark = "COUPLES THE ROWS" if output.verdict == "coupled" else "HERE THE PROOF ENDS"
    # A node of a body or a function is none of the chain's, which ends at the node around it.
    ends_there = bool(output.chain) and output.chain[-1].node == output.node
    heading = f"{output.chain[-1].operator}: {mark}" if ends_there else mark
    before = output.chain[:-1] if ends_there else output.chain
    culprit = Box(heading, [output.node, output.short_reason], look)
    return [*(Box(step.operator, [step.node, step.rows]) for step in before), culprit, ending]


def _rows_of(output: OutputSafety) -> str:
    if output.batch_axis is None:
        return "depends on no row"
    return f"axis {output.batch_axis}" + f", {output.rows_per_row} entries per row" * (output.rows_per_row > 1)


def _last(output: OutputSafety) -> str | None:
    return output.chain[-1].node if output.chain else None


def _drawn(name: str, text: str, color: str) -> str:
    return f"  {_quoted(name)} [label={_quoted(text)}, fillcolor={color}];"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
