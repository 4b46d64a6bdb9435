"""Finds backends by entry point, keeps why one failed, and opens models with them."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import pluggy

from anybatch import _hookspecs
from anybatch._backend import Backend, Clock, Compiled, Compiler, Model
from anybatch._batching import AnyBatch, check_batch_sizes
from anybatch._calibration import Calibration, Shelf, describe_setting
from anybatch._costs import Costs, TableCosts
from anybatch._errors import (
    BackendNotFoundError,
    BackendUnavailableError,
    ContractError,
    InputError,
    ModelError,
    SafetyWarning,
)
from anybatch._guard import Basis, Guard, RowSafety, SafetyMode, has_single_rows
from anybatch._onnx_spec import read_model
from anybatch._planner import Policy
from anybatch._runner import Runner
from anybatch._staging import Padding
from anybatch._tensors import Combine, ModelSpec
from anybatch._trial import try_rows

ENTRY_POINT_GROUP: Final = "anybatch"
_TRIAL_S: Final = 2.0  # how long a model of which nothing is proven is tried when it is opened


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that could not be loaded.

    Attributes:
        name: the entry point's name.
        distribution: the installed distribution it belongs to.
        error: what went wrong.
    """

    name: str
    distribution: str
    error: BaseException

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution}: {type(self.error).__name__}: {self.error}"


class Registry:
    """The backends of a set of plugins; one broken plugin never hides the others.

    Args:
        plugins: entry points to load, one by one.

    Attributes:
        failures: the plugins that could not be loaded, with their causes.
    """

    def __init__(self, plugins: Iterable[EntryPoint]) -> None:
        self.failures: list[PluginFailure] = []
        self._found: dict[str, list[tuple[str, Backend]]] = {}  # backend name -> (distribution, backend)
        for entry_point in plugins:
            distribution = entry_point.dist.name if entry_point.dist is not None else "an unknown distribution"
            try:
                backends = _load(entry_point)
            except (Exception, SystemExit) as error:  # whatever a plugin does while it is imported is shown with its name
                self.failures.append(PluginFailure(entry_point.name, distribution, error))
                continue
            for backend in backends:
                self._found.setdefault(backend.name, []).append((distribution, backend))

    @property
    def names(self) -> list[str]:
        """Names of all backends found, those claimed twice included, in alphabetical order."""
        return sorted(self._found)

    def distribution(self, name: str) -> str:
        """Return the distribution that brings a backend; both, where two claim its name."""
        return ", ".join(distribution for distribution, _ in self._found[name])

    def get(self, name: str) -> Backend:
        """Return the backend of that name.

        Raises:
            BackendNotFoundError: there is none, or two distributions claim the name; the message names both.
            BackendUnavailableError: the plugin whose entry point has that name failed to load; its error is the cause.
        """
        claims = self._found.get(name, [])
        if len(claims) == 1:
            return claims[0][1]
        if claims:
            raise BackendNotFoundError(
                f"backend {name!r} is claimed by {' and '.join(dist for dist, _ in claims)}: uninstall all but one of them"
            )
        for failure in self.failures:
            if failure.name == name:
                raise BackendUnavailableError(f"backend {name!r} could not be loaded: {failure}") from failure.error
        failed = f"; failed to load: {'; '.join(map(str, self.failures))}" if self.failures else ""
        raise BackendNotFoundError(
            f"no backend {name!r} is installed, only {self.names}; backends come as plugins, such as anybatch-{name}{failed}"
        )

    def for_suffix(self, suffix: str) -> Backend:
        """Return the one backend that opens files of that suffix by default.

        Raises:
            BackendNotFoundError: none does, or several do; the message lists what is installed.
        """
        names = [name for name, claims in self._found.items() if any(suffix in backend.suffixes for _, backend in claims)]
        if len(names) == 1:
            return self.get(names[0])
        if names:
            raise BackendNotFoundError(f"several backends open {suffix!r} files: {sorted(names)}; name one with backend=")
        failed = f"; failed to load: {'; '.join(map(str, self.failures))}" if self.failures else ""
        raise BackendNotFoundError(
            f"no installed backend opens {suffix!r} files by default; installed are {self.names}; "
            f"name one with backend='...'{failed}"
        )


def _load(entry_point: EntryPoint) -> Sequence[Backend]:
    """Load one plugin in a manager of its own, so that what is wrong with it is known to be its fault."""
    manager = pluggy.PluginManager(_hookspecs.PROJECT)
    manager.add_hookspecs(_hookspecs)
    plugin = entry_point.load()
    manager.register(plugin, entry_point.name)
    manager.check_pending()  # a misspelt hook would else be ignored without a word
    answers: list[Sequence[Backend]] = manager.hook.anybatch_backends()
    backends = [backend for answer in answers for backend in answer]
    if not backends:
        raise ContractError(f"{entry_point.value} offers no backend: is anybatch_backends() marked with @anybatch.hookimpl?")
    for backend in backends:
        _check_backend(backend, entry_point.value)
    return backends


def _check_backend(backend: object, source: str) -> None:
    """Check what `isinstance` with a Protocol cannot: that this is an instance, and what its name and suffixes are.

    Raises:
        ContractError: something is not as `Backend` says.
    """
    if isinstance(backend, type) or not isinstance(backend, Backend):
        raise ContractError(f"{source}: expected a backend, got {backend!r}, which is not one: see anybatch.Backend")
    name: object = backend.name
    if not isinstance(name, str) or not name:
        raise ContractError(f"{source}: expected the backend's name to be a str, got {name!r}")
    suffixes: object = backend.suffixes
    if isinstance(suffixes, str) or not isinstance(suffixes, Collection) or not all(isinstance(each, str) for each in suffixes):
        raise ContractError(f"{source}: expected the suffixes of backend {name!r} to be a set of str, got {suffixes!r}")


@cache
def registry() -> Registry:
    """Return the registry of everything installed; made once per process."""
    return Registry(entry_points(group=ENTRY_POINT_GROUP))


def available_backends() -> list[str]:
    """Return the names of the installed backends. Imports no vendor SDK; whether one is usable, its `check_usable` tells."""
    return registry().names


def open_model(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    backend: str | Backend | None = None,
    device: int = 0,
    batch_sizes: Sequence[int] | None = None,
    costs: Costs | Calibration | Mapping[int, float] | str | os.PathLike[str] | None = None,
    policy: Policy = "least_cost",
    padding: Padding = "zero",
    combine: Mapping[str, Combine] | None = None,
    adapt: bool | None = None,
    explore: float = 0.01,
    safety: SafetyMode = "auto",
    independent: Collection[str] = (),
    **options: Any,
) -> Runner:
    """Open a model for requests of any number of rows.

    Args:
        model: a file, the bytes of an ONNX model, or an ``onnx.ModelProto``.
        backend: a backend's name, or a backend itself; None takes the one that opens files of this suffix, and never another.
        device: index of the device, from 0.
        batch_sizes: the batch sizes to compile for, such as ``[1, 4, 8]``; None takes what the model offers.
        costs: the cost of one launch of each batch size, in any unit; or a calibration, or its file. None takes the calibration
            that `Runner.calibrate` or ``anybatch calibrate`` kept for this model, backend, device, batch sizes and options,
            else a prior. One that is out of date, or of something else, is not used: given, it is refused; found, it is
            warned about (RuntimeWarning).
        policy: how requests are split, see `Planner`.
        padding: what rows beyond a request hold: ``"zero"``, ``"repeat"``, or constants by input name.
        combine: how values of outputs without a batch axis become one over several launches, by output name:
            ``"same"``, ``"sum"``, ``"mean"``, ``"max"`` or ``"min"``.
        adapt: whether launches correct a calibration, see `Runner`. None: where the session says how many launches it executes
            at once, as accelerators do. One that takes any number shares the caller's processor, where times scatter with
            what else runs, and on a busy machine corrected plans were worse than those of a quiet calibration.
        explore: see `Runner`.
        safety: what to do where rows may influence one another, so that padding and splitting could change answers. ``"auto"``:
            a model of which the graph shows that they do runs in exact launches only, and other requests are refused. Where
            it shows neither, or there is none since the model is compiled already, the opened model is launched with
            made-up rows: once at least, and no launch begins later than two seconds after that. What is found coupled is
            treated alike; of the rest, a SafetyWarning says that nothing is proven, and which launches failed, if any. Not
            tried are models that run any number of rows in one launch, while no costs speak for splitting, and those that
            run one row at a time. ``"strict"``: whatever is not proven runs in exact launches only. ``"off"``: nothing is
            checked.
        independent: outputs whose rows the caller knows to be independent: they are not tried, and not warned about;
            `Runner.safety` and reports say so.
        options: the backend's own options; its documentation lists them.

    Returns:
        A `Runner`, which is a context manager; close it.

    Raises:
        InputError: an argument or an option does not fit.
        ModelError: there is no such file, it cannot be read, or cannot be run with these batch sizes.
        BackendNotFoundError: no such backend is installed, or none opens such files.
        BackendUnavailableError: the backend lacks its SDK or device.
        DeviceError: the runtime failed.
        In every case nothing stays open.
    """
    source = find_model(model)
    chosen = _choose_backend(backend, source)
    sizes = None if batch_sizes is None else check_batch_sizes(batch_sizes)
    table = TableCosts(costs) if isinstance(costs, Mapping) else costs
    if isinstance(table, (str, os.PathLike)):
        table = Calibration.load(table)
    index = _check_device(device)
    clock: Clock | None = getattr(chosen, "clock", None)
    session = chosen.open(source, device=index, batch_sizes=sizes, options=options)
    try:
        setting = describe_setting(
            backend=chosen.name,
            device=index,
            batching=session.batching,
            options=options,
            clock=clock,
        )
        shelf = Shelf(source, setting, chosen.check_usable)
        if table is None:
            try:
                table = shelf.find()
            except InputError as error:
                warnings.warn(f"not used: {error}", RuntimeWarning, stacklevel=2)
        elif isinstance(table, Calibration):
            shelf.check(table)
        alone = has_single_rows(session.batching)
        guard = Guard(
            safety,
            session.spec,
            independent=independent,
            prove=partial(_prove, source, session.spec),
            attempt=None if alone else partial(try_rows, session.execute, session.spec, session.batching, seconds=_TRIAL_S),
        )
        splits = isinstance(table, Calibration) or (isinstance(table, Costs) and table.sizes is not None)
        if splits or not (alone or isinstance(session.batching, AnyBatch)):
            guard.settle()  # else each row is launched just with those that came with it
        if doubt := guard.take_doubt():
            warnings.warn(f"{_name(source)}: {doubt}", SafetyWarning, stacklevel=2)
        return Runner(
            session,
            backend=chosen.name,
            costs=table,
            policy=policy,
            padding=padding,
            combine=combine,
            adapt=session.concurrency is not None if adapt is None else adapt,
            explore=explore,
            clock=clock,
            shelf=shelf,
            guard=guard,
        )
    except BaseException as error:  # such as Ctrl-C in a trial
        try:
            session.close()
        except Exception as closing:  # the first error is the one to act on; this one is attached
            raise error from closing
        raise


def _prove(model: Model, spec: ModelSpec) -> dict[str, RowSafety]:
    """Return what the graph of a model proves about its outputs' rows, taken to be where the session has them."""
    from anybatch import safety  # imports onnx

    tensors = (*spec.inputs, *spec.outputs)
    try:
        found = safety.analyse(
            model,
            batch_axis={tensor.name: tensor.batch_axis for tensor in tensors},
            rows_per_row={tensor.name: tensor.rows_per_row for tensor in tensors if tensor.rows_per_row > 1},
        )
    except (ModelError, InputError) as error:
        basis: Basis = "proof"
        reason = f"the graph does not tell: {error}"
        if not _has_graph(model):
            basis, reason = "nothing", "it is compiled already, so there is no graph to prove it on"
        return {tensor.name: RowSafety(tensor.name, "unknown", basis, None, reason) for tensor in spec.outputs}
    return {each.name: RowSafety(each.name, each.verdict, "proof", each.node, each.reason) for each in found.outputs}


def _has_graph(model: Model) -> bool:
    try:
        read_model(model)
    except ModelError:
        return False
    return True


def _name(model: Model) -> str:
    return model.name if isinstance(model, Path) else "the model"


def compile_model(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    backend: str | Backend,
    batch_sizes: Sequence[int] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Compiled:
    """Compile a model ahead, without a device: what `open` would compile, as a file.

    Args:
        model: a file, the bytes of an ONNX model, or an ``onnx.ModelProto``.
        backend: a backend's name, or a backend itself.
        batch_sizes: such as ``[1, 4, 8]``; None takes the one baked into the model, or else the backend's default.
        output: where the artefact goes, in the place of what is there; None keeps it in the backend's cache.
        progress: is called with lines for a person, as the compiler goes on.
        options: the backend's own options; its documentation lists them.

    Raises:
        InputError: an argument or an option does not fit, or the backend compiles nothing.
        ModelError: there is no such file, it cannot be read, or cannot be compiled for these batch sizes.
        BackendNotFoundError: no such backend is installed.
        BackendUnavailableError: the compiler is missing.
        In every case no file is left.
    """
    source = find_model(model)
    chosen = _choose_backend(backend, source)
    if not isinstance(chosen, Compiler):
        raise InputError(f"backend {chosen.name!r} compiles nothing ahead: it opens models as they are")
    sizes = None if batch_sizes is None else check_batch_sizes(batch_sizes)
    target = None if output is None else Path(output)
    return chosen.compile(source, batch_sizes=sizes, output=target, options=options, progress=progress)


def _check_device(device: object) -> int:
    try:
        index = operator.index(device)  # type: ignore[arg-type]  # the check is what this call is for
    except TypeError:
        index = -1
    if index < 0 or isinstance(device, bool):
        raise InputError(f"expected device to be an index >= 0, got {device!r}")
    return index


def find_model(model: object) -> Model:
    if isinstance(model, (str, os.PathLike)):
        if not os.fspath(model):
            raise ModelError("expected a model file, got an empty path")
        path = Path(model)
        if not path.is_file():
            raise ModelError(f"expected a model file, but {str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}")
        return path
    if isinstance(model, (bytearray, memoryview)):
        return bytes(model)
    if isinstance(model, bytes) or type(model).__name__ == "ModelProto":
        return model  # type: ignore[return-value]  # a ModelProto by name: onnx is imported by backends that need it
    raise InputError(f"expected a path, the bytes of a model or an onnx.ModelProto, got {type(model).__name__}")


def _choose_backend(backend: str | Backend | None, model: Model) -> Backend:
    if backend is None:
        # Bytes and protos have no suffix; ONNX is what they are.
        return registry().for_suffix(model.suffix.lower() if isinstance(model, Path) else ".onnx")
    if isinstance(backend, str):
        return registry().get(backend)
    try:
        _check_backend(backend, "backend")
    except ContractError as error:
        raise InputError(f"expected backend to be a name or a backend, got {backend!r}") from error
    return backend
