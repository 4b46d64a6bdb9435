"""Which launches a model may be run with: any, or only exact ones where rows may influence one another.

What is known of each output's rows comes from the first of these that tells: the caller, who declares them independent; a proof
on the model's graph; where that ends without a verdict, or there is no graph, a trial on the opened session. It is looked at
when it first matters, once: a request that is one launch of just its rows is right in any case.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf
from anybatch._errors import CoupledRowsError, InputError
from anybatch._planner import Plan
from anybatch._tensors import ModelSpec
from anybatch._trial import Trial

SafetyMode: TypeAlias = Literal["strict", "auto", "off"]
MODES: Final[tuple[SafetyMode, ...]] = get_args(SafetyMode)
Basis: TypeAlias = Literal["proof", "trial", "caller", "nothing"]


@dataclass(frozen=True, slots=True)
class RowSafety:
    """What is known about the rows of one output.

    Attributes:
        name: the output's.
        verdict: ``"independent"``, ``"coupled"`` or ``"unknown"``.
        basis: what says so: the ``"proof"`` on the graph, the ``"trial"`` on the session (which never shows independence), the
            ``"caller"``, or ``"nothing"`` where nobody looked.
        node: the node that couples the rows, or at which the proof ended; None where no single one does.
        reason: one sentence.
    """

    name: str
    verdict: Literal["independent", "coupled", "unknown"]
    basis: Basis
    node: str | None
    reason: str


Prove: TypeAlias = Callable[[], Mapping[str, RowSafety]]


class Guard:
    """Lets requests be split and padded, or refuses. Thread-safe.

    Args:
        mode: ``"auto"``: what is coupled runs in exact launches only, what stays unknown after proof and trial runs freely,
            with a warning. ``"strict"``: whatever is neither proven nor declared runs in exact launches only, and nothing is
            tried. ``"off"``: nothing is checked.
        spec: the model; outputs without a batch axis are not this class's business.
        independent: outputs whose rows the caller declares independent.
        prove: returns what the graph proves by output; what it lacks is unknown. Of a model without a graph, the basis is
            ``"nothing"``.
        attempt: tries the session; None where there is nothing to try.

    Raises:
        InputError: the mode is unknown, or `independent` names no output.
    """

    def __init__(
        self,
        mode: SafetyMode,
        spec: ModelSpec,
        *,
        independent: Collection[str] = (),
        prove: Prove = dict,
        attempt: Callable[[], Trial] | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"expected safety to be one of {list(MODES)}, got {mode!r}")
        names = [tensor.name for tensor in spec.outputs]
        if isinstance(independent, str) or not set(independent) <= set(names):
            raise InputError(f"expected independent to be a collection of outputs, of {names}, got {independent!r}")
        self.mode: Final = mode
        self._names = [tensor.name for tensor in spec.outputs if tensor.batch_axis is not None]
        self._all = frozenset(names)
        self._independent = frozenset(independent)
        self._prove = prove
        self._attempt = attempt
        self._lock = threading.Lock()
        self._outputs: tuple[RowSafety, ...] | None = None
        self._doubt = ""
        self._proven: Mapping[str, RowSafety] = {}

    def settle(self) -> None:
        """Look now, rather than when it first matters."""
        if self.mode != "off":
            _ = self.outputs

    @property
    def outputs(self) -> tuple[RowSafety, ...]:
        """What is known about each output with rows. The first time this may take seconds: it proves and tries."""
        with self._lock:
            if self._outputs is None:
                self._outputs = self._look()
            return self._outputs

    def why(self, output: str) -> str:
        """Return what the graph says against an output's rows, also one that is taken to have none; empty where nothing."""
        if self.mode == "off":
            return ""
        _ = self.outputs
        found = self._proven.get(output)
        return found.reason if found is not None and found.verdict == "coupled" else ""

    def take_doubt(self) -> str:
        """Return what the caller should be warned of, once; empty where that is nothing."""
        with self._lock:
            doubt, self._doubt = self._doubt, ""
            return doubt

    @property
    def restricts(self) -> bool:
        """Whether only exact launches may be made."""
        return bool(self._in_the_way())

    def refusal(self, plan: Plan, batching: Batching) -> CoupledRowsError:
        """Return the error for a request that cannot be run exactly."""
        first = self._in_the_way()[0]
        what = {
            "coupled": f"rows of output {first.name!r} influence one another",
            "unknown": f"rows of output {first.name!r} are not proven to be independent, and safety is 'strict'",
        }[first.verdict]
        exact = "one row or more in one launch" if isinstance(batching, AnyBatch) else f"exactly one launch of {batching}"
        return CoupledRowsError(
            f"{plan.rows} rows would be run as {plan}, but {what}: {first.reason}; send {exact}, or, if you know better, "
            f"declare it: open(..., independent=[{first.name!r}])",
            node=first.node,
        )

    def __str__(self) -> str:
        if self.mode == "off":
            return "not checked, safety is 'off'"
        if self._outputs is None:
            return "not checked: so far each request is one launch of just its rows"
        said = [f"{each.name}: {each.verdict}, by {_BY[each.basis]}" for each in self._outputs]
        return "; ".join(said) if said else "no output has rows"

    def _in_the_way(self) -> Sequence[RowSafety]:
        if self.mode == "off":
            return ()
        refused = ("coupled", "unknown") if self.mode == "strict" else ("coupled",)
        return [each for each in self.outputs if each.verdict in refused]

    def _look(self) -> tuple[RowSafety, ...]:
        known: dict[str, RowSafety] = {
            name: RowSafety(name, "independent", "caller", None, "the caller declares it")
            for name in self._names
            if name in self._independent
        }
        if self.mode == "off":
            known |= {name: _unknown(name, "safety is 'off'") for name in self._names if name not in known}
        if self.mode != "off" and not self._independent >= self._all:
            self._proven = self._prove()
            known = {name: each for name, each in self._proven.items() if name in self._names} | known
        for name in self._names:
            known.setdefault(name, _unknown(name, "nothing is known of the model"))
        open_names = [name for name in self._names if known[name].verdict == "unknown"]
        if open_names and self.mode == "auto" and self._attempt is not None:
            self._try(open_names, known)
        return tuple(known[name] for name in self._names)

    def _try(self, names: Sequence[str], known: dict[str, RowSafety]) -> None:
        assert self._attempt is not None
        trial = self._attempt()
        seen = {output.name: output for output in trial.outputs}
        left_out = [f"left out: {what}, at which the session raised {error}" for what, error in trial.refused.items()]
        doubts: dict[str, list[str]] = {}  # outputs by what is told of them
        compiled = False
        for name in names:
            before, output = known[name], seen.get(name)
            if output is not None and output.verdict == "coupled":
                known[name] = RowSafety(name, "coupled", "trial", before.node, output.reason)
                continue
            told = output.reason if output is not None else "it was not tried"
            reason = "; ".join([before.reason, told, *left_out])
            known[name] = RowSafety(name, "unknown", "trial", before.node, reason)
            doubts.setdefault(reason, []).append(repr(name))
            compiled |= before.basis == "nothing"
        if doubts:
            outputs = ", ".join(f"{', '.join(those)} ({reason})" for reason, those in doubts.items())
            self._doubt = (
                f"not proven that rows do not influence one another in output {outputs}, yet requests are split and padded. "
                f"{'To have it proven, open the ONNX model where the backend compiles it; ' if compiled else ''}"
                "independent=[...] says that you know, safety='strict' refuses such requests, safety='off' checks nothing"
            )


_BY: Final[Mapping[Basis, str]] = {
    "proof": "proof",
    "trial": "a trial",
    "caller": "the caller's word",
    "nothing": "nothing",
}


def _unknown(name: str, reason: str) -> RowSafety:
    return RowSafety(name, "unknown", "nothing", None, reason)


def has_single_rows(batching: Batching) -> bool:
    """Whether every launch has one row, so that none has a neighbour."""
    return isinstance(batching, Gears) and batching.sizes == (1,)


def is_exact(plan: Plan, batching: Batching) -> bool:
    """Whether each row is launched just with those that the caller sent along, so that it may depend on them.

    That is one launch of all rows, or none at all; and any launches of a model that takes single rows only.
    """
    if has_single_rows(batching):
        return True
    if len(plan.launches) > 1 or plan.padded_rows:
        return False
    return not (plan.launches and isinstance(batching, MultipleOf) and plan.launches[0].gear != batching.size)
