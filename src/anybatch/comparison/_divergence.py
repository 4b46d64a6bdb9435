"""Finds the node at which two backends part, by cutting the model there.

The nodes that lead to the output in question stand in the order of execution, in blocks. Behind each block is a *place*;
whatever comes before it reaches the output only through the tensors that are alive there. Where these agree on both sides, the
fault is behind the place, else before it: so places can be bisected, also in a graph of branches, and the node between two
neighbouring places reads what agrees and makes what does not. Each look opens a model that ends at the places looked at, on
both sides, and asks for several places at once, since opening may mean minutes of compiling.

What can be wrong with that, and what is done about it:

- A later node may hide a difference (Relu, ArgMax, rounding), so that places are not sorted into agreeing and differing. The
  search keeps to the last place that agrees before those that differ up to the output: a difference that was gone in between
  is no cause of the output's. Each look asks again for both ends of what is left, so that in the end one model has shown
  that the node's inputs agree and its output does not.
- Tensors that are looked at are not fused away, so that a fault of what the compiler makes of several nodes may vanish. Then
  fewer places are looked at, in the end one; one that still makes it vanish is left alone. Where that leaves several nodes,
  none of them is blamed alone.
- A backend may refuse a cut. Then, too, fewer places are looked at, and others near by.
- Rows may go astray on their way in or out. Copies of the inputs are answered, too: where these differ, no node is blamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from anybatch._artefacts import external_files
from anybatch._backend import Backend, Compiler
from anybatch._batching import Batching, Gears, MultipleOf
from anybatch._costs import Costs
from anybatch._errors import InputError, ModelError
from anybatch._guard import is_exact
from anybatch._onnx_spec import BatchAxes, declared_tensors, fixed_batch, read_model, symbol_of
from anybatch._registry import open_model, registry
from anybatch._runner import Runner
from anybatch._tensors import Array, ModelSpec, TensorSpec
from anybatch.comparison._entries import Entry
from anybatch.comparison._results import Case, Divergence, Metrics, Tolerance

if TYPE_CHECKING:
    import onnx

    from anybatch.comparison._cuts import Blocks, Graph

Judge: TypeAlias = Callable[[Array, Array], "tuple[Metrics, Tolerance]"]

_PLACES: Final = 8  # looked at with one cut model
_TENSORS: Final = 32  # alive at these places in all, where there is a choice
_FAILURES: Final = 4  # looks at a single place that may fail one after the other
_ANEW: Final = 3  # how often what agreed may differ at the next look
_AT_ONCE: Final = 8  # rows of a request to a session that takes any number
# Options by the names of tensors, and those of `anybatch.open` that are about the whole model.
_BY_TENSOR: Final = ("input_shape", "batch_axis", "rows_per_row", "padding", "combine")
_OF_THE_WHOLE: Final = ("costs", "safety", "independent", "explore")


def find_divergence(
    model: Any,
    reference: Entry,
    candidate: Entry,
    inputs: Mapping[str, Array],
    *,
    output: str,
    case: Case,
    judge: Judge,
    seconds: float = 300.0,
    progress: Callable[[str], None] = lambda _line: None,
    wall: Callable[[], float] = time.perf_counter,
) -> Divergence:
    """Find the first node whose output differs on two backends although its inputs do not.

    Both sides are opened once as they are and sent the case's requests in order, up to one whose answer differs; then cut
    models are opened with the same options. Rows that differ are sent as exactly one launch, if they differ then as well,
    since then nothing needs to be known of where inner tensors carry rows. Cut models are compiled into a folder that is
    deleted, where the backend has the option ``cache_dir``.

    Nodes in the bodies of If, Loop and Scan, and in functions, are not looked into: the node around them is blamed. An entry
    with a model of its own is looked at where tensors have the same names. A model whose batch size is fixed is freed of
    it only where an entry's batch sizes need that.

    Args:
        model: a file, the bytes of an ONNX model or an ``onnx.ModelProto``, for entries that bring none; it is not modified.
        reference: what is taken to be right. Where a request is one launch of the candidate's and not of the reference's, it is
            opened for just that batch size.
        candidate: what differs from it.
        inputs: the rows of all requests of the case, one after the other.
        output: the model's output that differs.
        case: in which it differs.
        judge: holds a tensor against the reference's, which comes first, of the same shape and dtype: a tensor of another dtype
            is cast. Elements outside the tolerance make a difference.
        seconds: no cut model is opened later than that, nor where the longest look so far would not fit into what is left.
        progress: called with lines for a person.
        wall: what tells the time, in seconds.

    Returns:
        What was found. `node` is None where no single node was shown to be the cause, and `reason` says why: also where a
        backend raises an error, which is not passed on.

    Raises:
        InputError: there is no such output, or `inputs` are not the rows of the case.
    """
    search = _Search(candidate.name, output, judge, seconds, progress, wall)
    with tempfile.TemporaryDirectory(prefix="anybatch-") as folder:
        try:
            sides = [
                _Side(entry, model, Path(folder) / ("common" if entry.model is None else str(number)))
                for number, entry in enumerate((reference, candidate))
            ]
            return search.run(sides, inputs, case)
        except _GivenUpError as error:
            return search.told(str(error))


class _GivenUpError(Exception):
    """Ends the search; its text is the reason."""


class _RefusedError(Exception):
    """A cut model could not be opened or run."""


class _EmptyError(_RefusedError):
    """An inner tensor came back with no elements."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """How a tensor compares; without metrics, in shape."""

    differs: bool
    metrics: Metrics | None = None
    tolerance: Tolerance | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent to both sides.

    Attributes:
        inputs: its arrays.
        rows: how many rows that are.
        exact: whether it is exactly one launch.
        words: the launches of the candidate.
    """

    inputs: Mapping[str, Array]
    rows: int
    exact: bool
    words: str


@dataclass(slots=True)
class _Axes:
    """Where inner tensors carry rows.

    Attributes:
        axis: by name; None for a tensor without rows, or of which nothing needs to be known.
        rows_per_row: by name, where it is not 1.
        same: tensors that are the same in every launch.
    """

    axis: dict[str, int | None] = field(default_factory=dict)
    rows_per_row: dict[str, int] = field(default_factory=dict)
    same: set[str] = field(default_factory=set)

    def note(self, name: str, tensor: TensorSpec) -> None:
        """Note what is known of a tensor, under that name."""
        self.axis[name] = tensor.batch_axis
        if tensor.rows_per_row > 1:
            self.rows_per_row[name] = tensor.rows_per_row


class _Side:
    """An entry, and how its cut models are opened.

    Attributes:
        name: the entry's.
        proto: its model; from `prepare` on, freed of a fixed batch size where the entry's sizes need that.
        runner: of the whole model, from `open_whole` to `prepare`.
        spec: of the whole model.
        opened: how many cut models were to be opened.

    Raises:
        _GivenUpError: the model has no graph.
    """

    def __init__(self, entry: Entry, model: Any, folder: Path) -> None:
        self.name: Final = entry.name
        self.opened = 0
        self.runner: Runner | None = None
        self._entry = entry
        model = model if entry.model is None else entry.model
        self._source = Path(model) if isinstance(model, (str, os.PathLike)) else model
        self._folder = folder
        self._sizes = entry.batch_sizes
        self._lacks: set[str] = set()  # options that the backend does not have
        try:
            self.proto = read_model(self._source)
        except ModelError as error:
            raise _GivenUpError(f"the model of {self.name!r} has no graph that could be cut: {error}") from error
        if not self.proto.graph.node:
            raise _GivenUpError(f"the model of {self.name!r} has no graph that could be cut: it has no nodes")

    def open_whole(self) -> None:
        """Open the model as the entry says.

        Raises:
            _GivenUpError: that failed.
        """
        entry = self._entry
        with self._explained("could not be opened"):
            self._backend: Backend = registry().get(entry.backend) if isinstance(entry.backend, str) else entry.backend
            self.runner = open_model(
                self._source, backend=self._backend, device=entry.device, batch_sizes=entry.batch_sizes, **entry.options
            )
            self.spec: ModelSpec = self.runner.spec
            self._costs: Costs | None = self.runner.costs

    def run_whole(self, inputs: Mapping[str, Array], output: str) -> Array:
        """Return an output of the model as it is.

        Raises:
            _GivenUpError: that failed.
        """
        assert self.runner is not None
        with self._explained("failed"):
            return self.runner.run(inputs)[output]

    def takes(self, rows: int) -> bool:
        """Return whether a request of so many rows is exactly one launch of the model as it is."""
        assert self.runner is not None
        try:
            plan = self.runner.plan(rows)
        except InputError:
            return False
        return len(plan.launches) == 1 and is_exact(plan, self.runner.batching)

    def prepare(self, request: _Request) -> None:
        """Close the whole model, and make ready to be cut.

        Raises:
            _GivenUpError: that failed, or a fixed batch size cannot be freed.
        """
        assert self.runner is not None
        if request.exact and not self.takes(request.rows):
            self._sizes, self._costs = (request.rows,), None
        batching = self.runner.batching
        self.close()
        with self._explained("its fixed batch size cannot be changed"):
            self._settle_batch(batching, request)
        with self._explained("its external data cannot be read"):
            self._folder.mkdir(exist_ok=True)
            for name in external_files(self.proto) if isinstance(self._source, Path) else ():
                target = self._folder / name
                if not target.exists():  # copies, since readers of such files refuse links
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self._source.parent / name, target)

    def close(self) -> None:
        """Close the whole model where it is open.

        Raises:
            _GivenUpError: that failed.
        """
        runner, self.runner = self.runner, None
        if runner is not None:
            with self._explained("could not be closed"):
                runner.close()

    def run_cut(self, cut: onnx.ModelProto, axes: _Axes, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Open a cut model as the entry says, run it and close it.

        Raises:
            _RefusedError: the backend raised an error.
        """
        self.opened += 1
        path = self._folder / f"cut{self.opened}.onnx"
        try:
            path.write_bytes(cut.SerializeToString())
            with self._open_cut(path, cut, axes) as runner:
                return runner.run({tensor.name: inputs[tensor.name] for tensor in runner.spec.inputs})
        except Exception as error:  # whatever a plugin raises about a model that nobody but us has made
            raise _RefusedError(f"{self.name}: {type(error).__name__}: {error}") from error
        finally:
            path.unlink(missing_ok=True)

    def _open_cut(self, path: Path, cut: onnx.ModelProto, axes: _Axes) -> Runner:
        known = _Axes(dict(axes.axis), dict(axes.rows_per_row))
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            known.note(tensor.name, tensor)
        names = {value.name for value in (*cut.graph.input, *cut.graph.output)}
        options = {name: value for name, value in self._entry.options.items() if name not in _OF_THE_WHOLE}
        for option in _BY_TENSOR:
            if isinstance(given := options.get(option), Mapping):
                options[option] = {name: value for name, value in given.items() if name in names}
        options["combine"] = {**options.get("combine", {}), **dict.fromkeys(axes.same & names, "same")}
        ours: dict[str, Any] = {
            "batch_axis": {name: axis for name, axis in known.axis.items() if name in names},
            "rows_per_row": {name: count for name, count in known.rows_per_row.items() if name in names},
            "cache_dir": str(self._folder / "cache"),
        }
        while True:
            options |= {name: value for name, value in ours.items() if name not in self._lacks}
            try:
                return open_model(
                    path,
                    backend=self._backend,
                    device=self._entry.device,
                    batch_sizes=self._sizes,
                    costs=self._costs,
                    safety="off",
                    explore=0.0,
                    **options,
                )
            except InputError as error:  # as `check_options` says it, before anything else is done
                lacking = next((name for name in ours if f"has no option {name!r}" in str(error)), None)
                if lacking is None or lacking in self._lacks:
                    raise
                self._lacks.add(lacking)
                del options[lacking]

    def _settle_batch(self, batching: Batching, request: _Request) -> None:
        """Free a fixed batch size where others are asked for; else ask for just that one, with which no backend frees it."""
        axes = BatchAxes.from_options(self._entry.options)
        try:
            batch = fixed_batch(declared_tensors(self.proto)[0], axes)
        except ModelError:  # it cannot be told, and the backend knows better
            return
        if batch is None:
            return
        offered = self._sizes is None and (isinstance(self._backend, Compiler) or (request.exact and request.rows == batch))
        if self._sizes == (batch,) or batching == Gears((batch,)) or offered:
            self._sizes = (batch,)
            return
        from anybatch import _rebatch  # imports onnx

        self.proto = _rebatch.free_batch(self.proto, axes)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a plugin raises; an interrupt passes
            raise _GivenUpError(f"{self.name}: {what}: {type(error).__name__}: {error}") from error


class Bisection:
    """Which places to look at next: no arrays, no model.

    Place -1 is before the first block, where the inputs are.

    Args:
        alive: by place, how many tensors are alive there; at the last it is the output, which differs.

    Attributes:
        low: agrees, as far as it was looked at.
        high: differs; the next look tells by which tensors.
        settled: whether one look has shown both.
        left_out: places that cannot be looked at, and why.
    """

    def __init__(self, alive: Sequence[int]) -> None:
        self._alive = alive
        self._most = _PLACES
        self.low = -1
        self.high = len(alive) - 1
        self.settled = False
        self.left_out: dict[int, str] = {}
        self._failures = 0
        self._begun_anew = 0

    def next(self) -> list[int]:
        """Return the places between both ends to look at, ascending; empty where there are none."""
        inner = [place for place in range(self.low + 1, self.high) if place not in self.left_out]
        for count in range(self._most, 1, -1):
            chosen = self._spread(inner, count)
            if sum(self._alive[place] for place in chosen) <= _TENSORS:
                return chosen
        return self._spread(inner, 1)

    def learn(self, differs: Mapping[int, bool]) -> bool:
        """Take in what a look showed: at both ends, and at each place between that was looked at.

        Returns:
            Whether a difference was seen at all.

        Raises:
            _GivenUpError: what agreed before differs, time and again.
        """
        places = sorted(differs)
        place = next((index for index in reversed(range(len(places))) if differs[places[index]]), None)
        if place is None:
            return False
        while place and differs[places[place - 1]]:
            place -= 1
        self._failures = 0
        self._most = min(2 * self._most, _PLACES)
        self.settled = place > 0
        self.high = places[place]
        self.low = places[place - 1] if place else -1
        if not self.settled:
            self._begun_anew += 1
            if self._begun_anew > _ANEW:
                raise _GivenUpError("what agreed with one cut differs with the next, time and again: no node can be told")
        return True

    def fail(self, places: Sequence[int], why: str) -> bool:
        """Take in that a look told nothing; return whether there is another to try."""
        if len(places) > 1:
            self._most = 1
            return True
        self._failures += 1
        self.left_out.update(dict.fromkeys(places, why))
        return bool(places) and self._failures < _FAILURES

    def _spread(self, inner: Sequence[int], count: int) -> list[int]:
        """Return so many places that part the others evenly, each the narrowest near by."""
        if len(inner) <= count:
            return list(inner)
        step = len(inner) / (count + 1)
        chosen = []
        for number in range(1, count + 1):
            centre = number * step - 0.5
            near = range(max(0, round(centre - step / 4)), min(len(inner), round(centre + step / 4) + 1))
            chosen.append(inner[min(near, key=lambda at: (self._alive[inner[at]], abs(at - centre)))])
        return sorted(set(chosen))


class _Search:
    """One search: `run` does it, `told` makes its result."""

    def __init__(
        self,
        entry: str,
        output: str,
        judge: Judge,
        seconds: float,
        progress: Callable[[str], None],
        wall: Callable[[], float],
    ) -> None:
        self._entry = entry
        self._output = output
        self._judge = judge
        self._seconds = seconds
        self._progress = progress
        self._wall = wall
        self._started = wall()
        self._longest = 0.0  # that a look took
        self._sides: Sequence[_Side] = ()
        self._request: _Request
        self._axes = _Axes()
        self._independent = False  # whether the graph proves the rows of the output to be
        self._copies: tuple[str, ...] = ()  # inputs of which cut models answer copies

    def told(
        self,
        reason: str,
        *,
        node: onnx.NodeProto | None = None,
        to_blame: bool = True,
        tensor: str | None = None,
        finding: _Finding = _Finding(True),
    ) -> Divergence:
        """Return a result; of a node that is not to blame, the operator and the tensor only."""
        from anybatch.safety._engine import label  # imports onnx

        return Divergence(
            entry=self._entry,
            output=self._output,
            node=label(node) if node is not None and to_blame else None,
            operator=None if node is None else node.op_type,
            tensor=tensor,
            metrics=finding.metrics,
            tolerance=finding.tolerance,
            opened=sum(side.opened for side in self._sides),
            reason=reason,
        )

    def run(self, sides: Sequence[_Side], inputs: Mapping[str, Array], case: Case) -> Divergence:
        """Search; see `find_divergence`.

        Raises:
            InputError: see there.
            _GivenUpError: nothing was found.
        """
        from anybatch.comparison._cuts import Graph, is_static  # imports onnx

        self._sides = sides
        for side in sides:
            outputs = [value.name for value in side.proto.graph.output]
            if self._output not in outputs:
                raise InputError(f"expected an output of the model of {side.name!r}, {outputs}, got {self._output!r}")
        try:
            for side in sides:
                self._progress(f"{side.name}: opening the whole model")
                side.open_whole()
            self._request = self._find_request(inputs, case)
            for side in sides:
                side.prepare(self._request)
        finally:
            for side in sides:
                side.close()
        shapes = {name: array.shape for name, array in self._request.inputs.items()}
        self._graphs = [Graph(side.proto, self._output, shapes) for side in sides]
        graph = self._graphs[1]
        if not graph.nodes:
            raise _GivenUpError(f"no node computes {self._output!r}")
        self._independent = self._find_axes(graph)
        self._copies = tuple(t.name for t in sides[1].spec.inputs if t.batch_axis is not None and t.name in graph.tensors)
        for tensor in sides[1].spec.inputs:
            self._axes.note(graph.copy_of(tensor.name), tensor)
        shared = {
            name for name in graph.made & self._graphs[0].made if name in graph.tensors and name in self._graphs[0].tensors
        }
        known = shared & set(self._axes.axis)
        if self._request.exact:  # one launch of its size: where rows are need not be known
            self._axes.axis = dict.fromkeys(shared) | self._axes.axis
            try:
                return self._bisect(graph, graph.blocks(graph.made - shared - {self._output}))
            except _EmptyError:  # some sessions take a free dimension for 0, if it is not that of the rows
                known |= {name for name in shared if is_static(graph.tensors[name])}
        return self._bisect(graph, graph.blocks(graph.made - known - {self._output}), once_more=False)

    def _find_request(self, inputs: Mapping[str, Array], case: Case) -> _Request:
        """Return a request whose answers differ: exactly one launch, where there is one."""
        left, right = self._sides
        _check_rows(left.spec, inputs, case)
        assert right.runner is not None
        tensor = next(each for each in left.spec.outputs if each.name == self._output)
        for start, rows in zip(accumulate(case.requests, initial=0), case.requests, strict=False):
            if not rows:
                continue
            found = self._try_rows(inputs, np.arange(start, start + rows))
            if found is None:
                continue
            request, expected, got = found
            batching = right.runner.batching
            if isinstance(batching, Gears):
                sizes: Sequence[int] = batching.sizes
            else:
                sizes = (batching.size,) if isinstance(batching, MultipleOf) else (min(rows, _AT_ONCE), rows)
            worst = start + _worst_rows(tensor, expected, got, rows)
            for size in filter(right.takes, dict.fromkeys(sizes)):
                if again := self._try_rows(inputs, np.sort(np.resize(worst[:size], size))):
                    return _Request(again[0], size, True, str(right.runner.plan(size)))
            return _Request(request, rows, False, str(right.runner.plan(rows)))
        raise _GivenUpError(f"opened again and sent the same requests, {self._output!r} does not differ")

    def _try_rows(self, inputs: Mapping[str, Array], rows: Array) -> tuple[dict[str, Array], Array, Array] | None:
        """Return some rows as a request, and both answers to it; None where these agree."""
        left, right = self._sides
        request = {each.name: _pick(each, inputs[each.name], rows) for each in left.spec.inputs}
        expected, got = (side.run_whole(request, self._output) for side in (left, right))
        return (request, expected, got) if self._hold(expected, got).differs else None

    def _hold(self, expected: Array, got: Array) -> _Finding:
        if expected.shape != got.shape:
            return _Finding(True)
        if not expected.size:
            return _Finding(False)
        metrics, tolerance = self._judge(expected, got if got.dtype == expected.dtype else got.astype(expected.dtype))
        return _Finding(metrics.outside > 0, metrics, tolerance)

    def _find_axes(self, graph: Graph) -> bool:
        """Find out where inner tensors carry rows; return whether the graph proves the output's rows independent."""
        from anybatch import safety  # imports onnx

        spec = self._sides[1].spec
        whole = graph.answering_all()
        inputs = [tensor for tensor in spec.inputs if tensor.name in {value.name for value in whole.graph.input}]
        axes = _Axes()
        for tensor in inputs:
            axes.note(tensor.name, tensor)
        try:
            found = safety.analyse(whole, batch_axis=axes.axis, rows_per_row=axes.rows_per_row)
        except ModelError:
            return False
        dims = {each.name: each.dims for each in (*declared_tensors(whole)[0], *declared_tensors(whole)[1])}
        symbols = {symbol_of(dims[tensor.name][tensor.batch_axis]) for tensor in inputs if tensor.batch_axis is not None} - {""}
        for each in found.outputs:
            named = [axis for axis, dim in enumerate(dims[each.name]) if symbol_of(dim) in symbols]
            if each.verdict == "independent" or [each.batch_axis] == named:
                self._axes.axis[each.name] = each.batch_axis
                if each.rows_per_row > 1:
                    self._axes.rows_per_row[each.name] = each.rows_per_row
                if each.batch_axis is None:
                    self._axes.same.add(each.name)
        return all(each.verdict == "independent" for each in found.outputs if each.name == self._output)

    def _bisect(self, graph: Graph, blocks: Blocks, *, once_more: bool = True) -> Divergence:
        """Search the blocks.

        Raises:
            _EmptyError: a side answers a tensor with nothing, and it can be left out and searched once more.
            _GivenUpError: nothing was found.
        """
        bisection = Bisection([len(blocks.alive(place)) for place in range(len(blocks))])
        seen = {self._output: _Finding(True)}
        ending = ""
        while True:
            places = bisection.next()
            if not places and bisection.settled:
                break
            if self._wall() - self._started + self._longest > self._seconds:
                ending = f"ran out of time after {self._wall() - self._started:.0f} s"
                break
            self._say(blocks, bisection, places)
            tensors = {place: blocks.alive(place) for place in (bisection.low, *places) if place >= 0}
            tensors[bisection.high] = [name for name in blocks.alive(bisection.high) if name in seen and seen[name].differs]
            copies = self._copies if bisection.low < 0 else ()
            try:
                found = self._look([name for names in tensors.values() for name in names], copies)
            except _RefusedError as error:
                if once_more and isinstance(error, _EmptyError):
                    raise
                if copies:
                    self._copies = ()
                elif not bisection.fail(places, f"cut models are refused: {error}"):
                    ending = f"cut models are refused: {error}"
                    break
                continue
            if astray := [name for name in copies if found[graph.copy_of(name)].differs]:
                return self.told(
                    f"{self._prelude}a copy of the input {astray[0]!r} comes back with other values: rows go astray on their "
                    "way in or out, not in a node",
                    tensor=astray[0],
                    finding=found[graph.copy_of(astray[0])],
                )
            differs = {place: any(found[name].differs for name in names) for place, names in tensors.items()}
            if bisection.learn({-1: False} | differs if bisection.low < 0 else differs):
                seen = found
            elif not bisection.fail(places, _VANISHES):
                ending = _VANISHES
                break
        return self._concluded(blocks, bisection, seen, ending)

    def _say(self, blocks: Blocks, bisection: Bisection, places: Sequence[int]) -> None:
        left = bisection.high - bisection.low
        self._progress(f"{left} of {len(blocks)} node{'s' * (len(blocks) > 1)} left: opening a model cut at {len(places)}")

    def _look(self, tensors: Sequence[str], copies: Sequence[str]) -> dict[str, _Finding]:
        """Return how tensors compare, by name; copies of inputs by that of the copy.

        Raises:
            _EmptyError: the candidate answers a tensor with nothing.
            _RefusedError: a side cannot run the cut model.
        """
        from anybatch.comparison._cuts import cut_model  # imports onnx

        begun = self._wall()
        answers = []
        for side, graph in reversed([*zip(self._sides, self._graphs, strict=True)]):  # who may refuse comes first
            cut = cut_model(side.proto, {name: graph.tensors[name] for name in tensors}, copies=copies)
            answers.append(side.run_cut(cut, self._axes, self._request.inputs))
        got, expected = answers
        self._longest = max(self._longest, self._wall() - begun)
        for name, array in expected.items():
            if array.size and not got[name].size:
                raise _EmptyError(f"{self._entry}: {name!r} came back as {list(got[name].shape)}, expected {list(array.shape)}")
        return {name: self._hold(array, got[name]) for name, array in expected.items()}

    def _concluded(self, blocks: Blocks, bisection: Bisection, seen: Mapping[str, _Finding], ending: str) -> Divergence:
        known = blocks.alive(bisection.low) if bisection.low >= 0 else ()
        differing = [name for name in blocks.alive(bisection.high) if name in seen and seen[name].differs]
        nodes = blocks.between(known, differing)
        if not bisection.settled:
            return self.told(f"{self._prelude}{ending}; the fault is in one of {len(nodes)} nodes")
        if ending or len(nodes) > 1:
            why = [ending] if ending else sorted({*bisection.left_out.values()}) or [_HIDDEN]
            return self.told(
                f"{self._prelude}{'; '.join(why)}: the fault is in {_listed(nodes)}, the inputs of which agree",
                tensor=differing[0],
                finding=seen[differing[0]],
            )
        node = nodes[0]
        what = f"the inputs of {_described(node)} agree, its output {differing[0]!r} does not"
        at_fault = self._request.exact or not self._independent
        return self.told(
            what if self._request.exact else f"{self._prelude}{'' if at_fault else 'it shows first where '}{what}",
            node=node,
            to_blame=at_fault,
            tensor=differing[0],
            finding=seen[differing[0]],
        )

    @property
    def _prelude(self) -> str:
        """How reasons begin where no exact launch differs."""
        if self._request.exact:
            return ""
        cause = "the fault is in padding or splitting, not in a node" if self._independent else "padding or splitting shows it"
        return f"with exact launches nothing differs: {cause}; of {self._request.rows} rows, run as {self._request.words}, "


_VANISHES: Final = "the difference vanishes where inner tensors are looked at, as if it came of nodes that are compiled as one"
_HIDDEN: Final = "what passes between nodes cannot be looked at"


def _described(node: onnx.NodeProto) -> str:
    from anybatch.safety._engine import label  # imports onnx

    return f"{label(node)!r} ({node.op_type})"


def _listed(nodes: Sequence[onnx.NodeProto]) -> str:
    if len(nodes) == 1:
        return _described(nodes[0])
    if len(nodes) <= 4:
        return f"one of {', '.join(map(_described, nodes))}"
    return f"one of {len(nodes)} nodes, from {_described(nodes[0])} to {_described(nodes[-1])}"


def _check_rows(spec: ModelSpec, inputs: Mapping[str, Array], case: Case) -> None:
    for tensor in spec.inputs:
        if tensor.name not in inputs:
            raise InputError(f"expected an array for each input of the model, got none for {tensor.name!r}")
        axis = tensor.batch_axis
        if axis is not None and inputs[tensor.name].shape[axis] != case.rows * tensor.rows_per_row:
            raise InputError(
                f"{tensor.name!r}: expected the {case.rows} rows of case {case.name!r}, {tensor}, "
                f"got {list(inputs[tensor.name].shape)}"
            )


def _pick(tensor: TensorSpec, array: Array, rows: Array) -> Array:
    """Return some rows of an input; all of one that has none."""
    if tensor.batch_axis is None:
        return array
    entries = rows[:, None] * tensor.rows_per_row + np.arange(tensor.rows_per_row)
    return np.ascontiguousarray(np.take(array, entries.ravel(), tensor.batch_axis))


def _worst_rows(tensor: TensorSpec, expected: Array, got: Array, rows: int) -> Array:
    """Return the numbers of all rows of a request, those first that are farthest off."""
    if tensor.batch_axis is None or expected.shape != got.shape:
        return np.arange(rows)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = (np.moveaxis(array.astype(wide), tensor.batch_axis, 0).reshape(rows, -1) for array in (expected, got))
    with np.errstate(invalid="ignore"):
        gap = np.abs(left - right)
    gap = np.where((left == right) | (np.isnan(left) & np.isnan(right)), 0.0, np.nan_to_num(gap, nan=np.inf))
    return np.argsort(-gap.max(axis=1, initial=0.0), kind="stable")
