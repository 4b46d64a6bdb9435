"""The whole contract that a plugin fulfils: Backend and Session, and Compiler where there is something to compile.

A backend opens a model and yields a session; a session says which batch sizes it takes and executes exactly one of them.
Everything about arbitrary requests (splitting, padding, trimming, checking, counting, threads) is the core's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from anybatch._batching import Batching
from anybatch._errors import ContractError, InputError
from anybatch._tensors import Array, ModelSpec

if TYPE_CHECKING:
    import onnx

Model: TypeAlias = "Path | bytes | onnx.ModelProto"


@runtime_checkable
class Session(Protocol):
    """One model opened on one device, with its compiled batch sizes.

    Its spec leaves `combine` to the caller. A session that knows them has two attributes more, for reports: `precision`, what
    it computes floats in, as NumPy names it (``"float32"``, ``"float16"``, ``"bfloat16"``, and ``"int8"`` where a model is
    quantised), and `memory_bytes`, what the model takes on the device: weights, and buffers of all that runs at once.
    """

    @property
    def spec(self) -> ModelSpec:
        """The model's inputs and outputs; the same object for the session's whole life."""
        ...

    @property
    def batching(self) -> Batching:
        """What one launch may be; the same for the session's whole life."""
        ...

    @property
    def concurrency(self) -> int | None:
        """How many `execute` calls may be in progress at once, from different threads; None for any number.

        The core never exceeds it. 1 is right for a runtime that is not thread-safe; an accelerator with k buffer sets says k.
        """
        ...

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        """Execute once. As many rows come back as went in.

        Args:
            inputs: every input, checked, in native byte order, C-contiguous and aligned, perhaps read-only. They are the
                caller's memory: never write to them, never keep them after returning. Batched ones have exactly
                `gear` rows; where the batching pads by itself (``Gears(pads=True)``, ``MultipleOf``), from 1 to `gear`, and
                the rows up to `gear` must be zeros to the model, whatever an earlier launch left there.
            gear: the batch size to run: one of the gears, a multiple, or any number, as `batching` says.
            out: None, or for some of the outputs a writable C-contiguous array of the result's dtype and shape. An
                offer: write there and return that array, or ignore it and return another.

        Returns:
            One array per output, writable, dtype and shape as in the spec, with as many rows as the inputs have. Arrays
            that were not offered belong to the caller from now on, also after `close`; they share no memory with the
            inputs, with one another or with anything the session reads or writes again. What was offered and is not
            returned was not touched.

        Raises:
            DeviceError: the runtime failed. The session stays usable, or raises DeviceError again on the next call.
            ClosedError: `close` was called before.
            InputError: `gear` is none of its sizes, or the rows do not fit it.
        """
        ...

    def close(self) -> None:
        """Free everything. Twice is fine. The core calls it only while no `execute` is in progress."""
        ...


@runtime_checkable
class Clock(Protocol):
    """What tells how long launches take where that is not the wall clock: the device clock of a simulator."""

    @property
    def name(self) -> str:
        """What it is, for reports, such as ``"device clock of the simulator, modelled by 310p"``."""
        ...

    def __call__(self) -> float:
        """Return the time in seconds, which never goes back; only differences mean something. Called from any thread."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A plugin's entry: opens models on one kind of device. Making one is cheap and imports no SDK.

    A simulator's backend has one attribute more, `clock`, a `Clock`: what its launches are timed with. A backend that compiles
    has `gear_limits` where one model cannot have any number of batch sizes: the least and the most, such as ``(1, 100)``.
    """

    @property
    def name(self) -> str:
        """What callers pass as ``backend=``, such as ``"onnxruntime"``."""
        ...

    @property
    def suffixes(self) -> Collection[str]:
        """File suffixes that mean this backend when the caller names none, such as ``{".onnx"}``; mostly empty."""
        ...

    def check_usable(self) -> str:
        """Return one line that names the runtime and its version, such as ``"onnxruntime 1.31.1, CPUExecutionProvider"``.

        Looks only: imports no SDK and touches no device, so that listing backends works on every machine.

        Raises:
            BackendUnavailableError: something is missing; the message says which package, variable or device.
        """
        ...

    def open(self, model: Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]) -> Session:
        """Open a model on a device; compile it first where the backend does that. Called from any thread.

        Args:
            model: a file that exists, the bytes of one, or an onnx.ModelProto; none is ever modified.
            device: index of the device, 0 or more.
            batch_sizes: compile for these (checked, ascending); None takes what the model offers.
            options: the backend's own, see `check_options`.

        Raises:
            InputError: a device, batch size or option does not fit.
            ModelError: the model cannot be read, or not run with these batch sizes; the message says why.
            BackendUnavailableError: the SDK or device is missing.
            DeviceError: the runtime failed.
            In every case nothing stays allocated.
        """
        ...


def gear_limits(backend: Backend) -> tuple[int, int | None]:
    """Return the least and the most batch sizes that a backend compiles into one model: its attribute `gear_limits`.

    Returns:
        Both at least 1; the most is None where there is no limit, and without the attribute they are ``(1, None)``.

    Raises:
        ContractError: the attribute is something else.
    """
    limits = getattr(backend, "gear_limits", (1, None))
    if isinstance(limits, tuple) and len(limits) == 2:
        least, most = limits
        if isinstance(least, int) and least >= 1 and (most is None or (isinstance(most, int) and most >= least)):
            return least, most
    raise ContractError(
        f"backend {backend.name!r}: expected gear_limits as the least and the most batch sizes, such as (1, 100), "
        f"got {limits!r}"
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a backend compiled.

    Attributes:
        path: the artefact: a file that the same backend opens as it is.
        spec: inputs and outputs of the model it was made of.
        batch_sizes: those compiled into it, ascending.
        cached: whether it was compiled before, and found.
        temporary: whether there was no place to keep it, so that whoever asked for it has to delete the file.
        advice: what the vendor would do otherwise, in sentences; nothing that keeps the artefact from running.
        precision: what the model it was made of computes floats in, as `Session` has it, where that is known; the options say
            whether that was changed.
    """

    path: Path
    spec: ModelSpec
    batch_sizes: tuple[int, ...]
    cached: bool
    temporary: bool = False
    advice: tuple[str, ...] = ()
    precision: str = ""


@runtime_checkable
class Compiler(Protocol):
    """A backend that can also compile ahead, needing no device for it: what `open` would compile, as a file."""

    def compile(
        self,
        model: Model,
        *,
        batch_sizes: Sequence[int] | None,
        output: Path | None,
        options: Mapping[str, object],
        progress: Callable[[str], None] | None,
    ) -> Compiled:
        """Compile a model for these batch sizes. Called from any thread; one of several callers of the same compiles.

        Args:
            model: a file that exists, the bytes of one, or an onnx.ModelProto; none is ever modified.
            batch_sizes: checked, ascending; None takes the one that is baked into the model, or else the backend's default.
            output: where the artefact goes, complete or not at all, in the place of what is there; None keeps it in the
                backend's cache, where `open` finds it.
            options: those of `Backend.open` that compiling depends on, see `check_options`.
            progress: called from this thread with lines for a person, as the compiler goes on.

        Raises:
            InputError: a batch size or option does not fit, or `output` cannot be written.
            ModelError: the model cannot be read, is compiled already, or cannot be compiled for these batch sizes; the message
                says why.
            BackendUnavailableError: the compiler is missing; the message says where it comes from.
            In every case, also where the caller is interrupted, no process goes on and no file is left.
        """
        ...


def check_launch(spec: ModelSpec, batching: Batching, inputs: Mapping[str, Array], gear: int) -> int:
    """Check that `inputs` are one launch of that gear, as `Session.execute` must, and return their rows.

    Raises:
        InputError: `gear` is none of the sizes, or an input has not the rows it needs.
    """
    if not batching.takes(gear):
        raise InputError(f"expected a gear of this session, which runs {batching}, got {gear}")
    lengths = {
        tensor.name: (inputs[tensor.name].shape[tensor.batch_axis], tensor.rows_per_row)
        for tensor in spec.inputs
        if tensor.batch_axis is not None
    }
    length, factor = next(iter(lengths.values()))
    rows = int(length // factor)
    if any(length != rows * factor for length, factor in lengths.values()) or not (
        1 <= rows <= gear if batching.pads else rows == gear
    ):
        listed = ", ".join(f"{name!r} has {length}" for name, (length, _) in lengths.items())
        raise InputError(f"expected {'1 to ' * batching.pads}{gear} rows in every input, got: {listed}")
    return rows


def check_options(options: Mapping[str, object], known: Collection[str], *, backend: str) -> None:
    """Check that a backend knows every option it was given.

    Raises:
        InputError: one is unknown; the message lists those there are, and the likely one.
    """
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"backend {backend!r} has no option {name!r}, only {sorted(known)}{hint}")
