"""Loaded models: who they are, which gear each was last set to, and one execution of one of them.

A model id, from `load` to `unload`:

    loaded, no mode -> synchronous or asynchronous by its first execution, and refused the other one from then on (500002)
    -> unloaded: 145003 for ever, ids are never used again

What a gear is lies in three places (contract 3.3): the bytes of the gear buffer decide what runs, the model id remembers the
last accepted set for `get_cur_output_dims`, and the dataset's mark switches the size check off. The parameters of dynamic AIPP
lie in one place, the bytes of their input's buffer.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acl_sim import _dynamic_aipp, _om
from acl_sim._aipp import AippConfig, AippError
from acl_sim._buffers import DataBuffer, TensorDesc
from acl_sim._clock import Stream, Task
from acl_sim._compute import NUMPY_TYPES, Array, ComputeError, Program, Shape
from acl_sim._errors import INVALID_PARAM, RT_MEMORY_ALLOCATION, SHORT_BUFFER, Refused, null
from acl_sim._ledger import Leak, caller_site
from acl_sim._machine import Context, Machine, machine
from acl_sim._om import Bundle, GearKind, Model, OmError

GE_FAILURE = 500002
GE_INTERNAL = 500001
GE_PARAM_INVALID = 145000
GE_EXEC_NOT_INIT = 145001
GE_MODEL_ID_INVALID = 145003
GE_DYNAMIC_INPUT_LENGTH_INVALID = 145012
GE_DYNAMIC_BATCH_SIZE_INVALID = 145013
RT_MODEL_EXECUTE = 507011

_SLACK_BYTES = 64  # 3.5: a buffer may be this much too short before execute says so
_MAX_NAME = 127


@dataclass(frozen=True, slots=True)
class Slot:
    """One input or output as the interface shows it: data inputs, then the gear input, then those of dynamic AIPP."""

    name: str
    acl_type: int
    format: int
    dims: Shape
    size_bytes: int


@dataclass(eq=False)
class Dataset:
    """Data buffers in order, its own tensor descs by index, and the mark that a `set_*` left (None, or the gear's values).

    `failed_set` names the last `set_*` if that failed.
    """

    buffers: list[int] = field(default_factory=list)
    tensor_descs: dict[int, tuple[int, TensorDesc]] = field(default_factory=dict)
    mark: tuple[int, ...] | None = None
    failed_set: str = ""


@dataclass(eq=False)
class Loaded:
    """A model with an id."""

    number: int
    model: Model
    program: Program
    context: Context
    site: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    held_bytes: int = 0
    user_memory: tuple[tuple[int, int, str], ...] = ()
    bundle: int = 0
    mode: str = ""
    current: tuple[GearKind, tuple[int, ...]] | None = None
    last: Task | None = None
    costs: dict[str, float] = field(default_factory=dict)  # device time by gear, or by shapes; slowness aside


class Models:
    """Every model of one machine."""

    def __init__(self, owner: Machine) -> None:
        self._machine = owner
        self._next = 1
        self._next_bundle = 1
        self._loaded: dict[int, Loaded] = {}
        self.bundles: dict[int, list[int]] = {}
        # What set_* last wrote to a gear buffer, by address: other bytes there were written by hand.
        self.gear_bytes: dict[int, bytes] = {}
        self.aipp_bytes: dict[int, bytes] = {}  # the same of set_input_aipp
        owner.more_leaks.append(self._leaks)

    def _leaks(self) -> list[Leak]:
        return [Leak("model", number, loaded.site) for number, loaded in self._loaded.items()]

    def check_ready(self) -> Context:
        """Refused 145001 before acl.init, 107002 without a context (the contract leaves that code open)."""
        if not self._machine.initialized:
            raise Refused(GE_EXEC_NOT_INIT, "acl.init was not called")
        return self._machine.current_context()

    def load(self, model: Model, work: tuple[int, int] = (0, 0), weight: tuple[int, int] = (0, 0), bundle: int = 0) -> int:
        """Give the model an id. `work` and `weight` are the user's (address, size); address 0: the runtime allocates.

        Raises:
            Refused: 145006 for a damaged graph, 145000 for too little user memory (Decision: silent in the contract),
                207001 when the device's memory does not hold it.
        """
        context = self._machine.current_context()
        held = 0
        user: list[tuple[int, int, str]] = []
        wanted = ((work, model.work_bytes, "work memory"), (weight, model.weight_bytes, "weight memory"))
        for (address, size), needed, what in wanted:
            if address == 0:
                held += needed
            elif size < needed:
                raise Refused(GE_PARAM_INVALID, f"{what} of {size} bytes where {needed} are needed")
            elif needed:
                self._machine.memory.view(address, needed, what, side="device")
                user.append((address, needed, what))
        try:
            program = Program(model)
        except OmError as error:
            raise Refused(error.code, str(error)) from error
        free = self._machine.config.memory_bytes - self._machine.memory.used[context.device]
        if held > free:
            raise Refused(RT_MEMORY_ALLOCATION, f"the model needs {held} bytes on device {context.device}, {free} are free")
        self._machine.memory.used[context.device] += held
        number = self._next
        self._next += 1
        slots = tuple(inputs_of(model)), tuple(outputs_of(model))
        self._loaded[number] = Loaded(number, model, program, context, caller_site(), *slots, held, tuple(user), bundle)
        return number

    def load_bundle(self, bundle: Bundle) -> int:
        """Load every model of a bundle; returns the bundle's id."""
        number = self._next_bundle
        self._next_bundle += 1
        self.bundles[number] = [self.load(model, bundle=number) for model in bundle.models]
        return number

    def get(self, number: int) -> Loaded:
        """The model with this id, or Refused 145003."""
        loaded = self._loaded.get(number)
        if loaded is None:
            raise Refused(GE_MODEL_ID_INVALID, f"no model has the id {number}")
        return loaded

    def find(self, number: int) -> Loaded | None:
        """The model with this id, if it is loaded."""
        return self._loaded.get(number)

    def unload(self, number: int) -> None:
        """End a model. Work still queued on it is a violation; in tolerant mode it runs first."""
        loaded = self.get(number)
        if loaded.last is not None and not loaded.last.synced:
            self._machine.violate(
                "unload while in use", f"{loaded.last.label} (queued at {loaded.last.site}) is not synchronised"
            )
            self._machine.clock.advance(targets=[loaded.last])
        del self._loaded[number]
        self._machine.memory.used[loaded.context.device] -= loaded.held_bytes


_models: weakref.WeakKeyDictionary[Machine, Models] = weakref.WeakKeyDictionary()


def models() -> Models:
    """The models of the current machine."""
    here = machine()
    known = _models.get(here)
    if known is None:
        known = _models[here] = Models(here)
    return known


# What the interface shows


def inputs_of(model: Model) -> list[Slot]:
    """The inputs as the interface counts them: data inputs, with AIPP as images, the gear input and those of AIPP (3.6).

    An image is bytes [n, h, w, channels]; where dynamic AIPP leaves h, w and channels open, its size is max_src_image_size.
    """
    slots: list[Slot] = []
    for index, tensor in enumerate(model.inputs):
        config = model.aipp[index]
        sizes = [client_bytes(model, index, model.input_shapes(gear)[index]) for gear in range(max(1, len(model.gears)))]
        if config is None:
            slots.append(Slot(tensor.name, tensor.acl_type, tensor.format, tensor.dims, max(sizes)))
        else:
            dims = (tensor.dims[0], -1, -1, -1) if config.dynamic else config.source_shape(tensor.dims)
            slots.append(Slot(tensor.name, _om.UINT8, _om.FORMAT_NHWC, dims, max(sizes)))
    if model.gears:
        count = model.values_per_gear
        slots.append(Slot(_om.GEAR_INPUT, _om.INT32, _om.FORMAT_ND, (count,), 4 * count))
    for number, index in enumerate(model.dynamic_aipp):
        size = _dynamic_aipp.data_bytes(model.largest_batch(index))
        name = _om.AIPP_INPUT if number == 0 else f"{_om.AIPP_INPUT}_aipp_node{number}"
        slots.append(Slot(name, _om.UINT8, _om.FORMAT_ND, (size,), size))
    return slots


def aipp_input(model: Model, index: int) -> int:
    """The input that takes the parameters for an input with dynamic AIPP."""
    return len(model.inputs) + bool(model.gears) + model.dynamic_aipp.index(index)


def outputs_of(model: Model) -> list[Slot]:
    """The outputs: of gear models at their largest (3.4); of a shape range without bound the size is 0."""
    slots: list[Slot] = []
    for index, tensor in enumerate(model.outputs):
        shapes = [gear[index] for gear in model.output_shapes]
        sizes = [tensor.size_bytes(shape) for shape in shapes]
        size = max(sizes, default=0)
        if model.gear_kind is GearKind.RANGE:
            slots.append(Slot(tensor.name, tensor.acl_type, tensor.format, tensor.dims, size))
        else:
            slots.append(Slot(tensor.name, tensor.acl_type, tensor.format, shapes[largest_for(model, index)], size))
    return slots


def largest_for(model: Model, output: int) -> int:
    """The gear at which this output is largest; of several the one with the most input elements (Decision)."""
    sizes = [math.prod(gear[output]) for gear in model.output_shapes]
    largest = model.largest_gear
    return largest if sizes[largest] == max(sizes) else sizes.index(max(sizes))


def client_bytes(model: Model, index: int, shape: Shape) -> int:
    """Bytes of a data input at a shape of the graph's: of the images where AIPP stands in front. 0 for an open axis."""
    config = model.aipp[index]
    if config is not None:
        return config.max_src_image_size if config.dynamic else math.prod(config.source_shape(shape))
    return 0 if -1 in shape else model.inputs[index].size_bytes(shape)


def shown_name(model_id: int, kind: str, index: int, name: str, others: Sequence[str]) -> str:
    """The name as the interface shows it: those over 127 characters by number (2.5), with a suffix if that is taken."""
    if len(name) <= _MAX_NAME:
        return name
    short = wanted = f"acl_modelId_{model_id}_{kind}_{index}"
    number = 0
    while short in others:
        short = f"{wanted}_{number}"
        number += 1
    return short


def slot_of(slots: Sequence[Slot], index: int, what: str) -> Slot:
    """One input or output, or Refused 100000."""
    if index >= len(slots):
        raise Refused(INVALID_PARAM, f"{what} {index}: the model has {len(slots)}")
    return slots[index]


def dims_dict(name: str, dims: Sequence[int]) -> dict[str, Any]:
    """A shape as the interface returns it (2.1)."""
    return {"name": name, "dimCount": len(dims), "dims": list(dims)}


# Handles


def dataset_of(handle: int) -> Dataset:
    """The dataset behind a handle; null 100000."""
    if handle == 0:
        raise null("the dataset")
    dataset: Dataset = machine().handles.get("dataset", handle)
    return dataset


def drop(kind: str, handle: int) -> int:
    """End a handle; null 100000."""
    if handle == 0:
        raise null(f"the {kind}")
    machine().handles.drop(kind, handle)
    return 0


# Executing


@dataclass(frozen=True, slots=True)
class _Place:
    address: int
    size: int


@dataclass(eq=False)
class Execution:
    """One execution, from the call on: where its data lies was read from the data buffers at the call."""

    loaded: Loaded
    dataset: Dataset
    inputs: list[_Place]
    outputs: list[_Place]
    failed_set: str
    shapes: tuple[Shape, ...] = ()
    gear: int | None = None

    def start(self) -> float:
        """Decide what runs, from the bytes of the gear buffer; returns the device time it takes."""
        model = self.loaded.model
        if model.gears:
            self.gear = self._gear()
            self.shapes = model.input_shapes(self.gear)
        elif model.gear_kind is GearKind.RANGE:
            self.shapes = self.shapes or self._range_shapes()  # execute_async has asked at the call
        else:
            self.gear, self.shapes = 0, model.input_shapes(0)
        text = self.gear_text()
        known = self.loaded.costs.get(text)
        if known is None:
            known = self.loaded.costs[text] = self._cost(text)
        return known * machine().profile.slowness(model.name, text)

    def _cost(self, gear_text: str) -> float:
        model = self.loaded.model
        count = 0 if self.gear is None else model.flops[self.gear]
        moved = model.weight_bytes
        moved += sum(tensor.size_bytes(shape) for tensor, shape in zip(model.inputs, self.shapes, strict=True))
        if self.gear is not None:
            results = zip(model.outputs, model.output_shapes[self.gear], strict=True)
            moved += sum(tensor.size_bytes(shape) for tensor, shape in results)
        rows = next((shape[0] for shape in self.shapes if shape), 1)
        return machine().profile.compute_us(model.name, gear_text, rows=rows, flops=count, bytes_moved=moved)

    def gear_text(self) -> str:
        """Name of what runs, for the ledger and the profile."""
        model = self.loaded.model
        if model.gears and self.gear is not None:
            return ",".join(map(str, model.gears[self.gear]))
        if model.gear_kind is GearKind.RANGE:
            return ";".join(",".join(map(str, shape)) for shape in self.shapes)
        return "static"

    def finish(self) -> int:
        """Compute and write the results; returns 0, or 507011 when the graph fails on this data."""
        here = machine()
        model = self.loaded.model
        for address, size, what in self.loaded.user_memory:
            here.memory.view(address, size, f"{what} of model {self.loaded.number}", side="device")
        try:
            arrays = [self._read(index, shape) for index, shape in enumerate(self.shapes)]
        except AippError as error:
            # Decision: hardware would run with whatever lies there; in tolerant mode the execution fails.
            return here.fail(RT_MODEL_EXECUTE, f"model {self.loaded.number} failed: {error}")
        here.ledger.launch(model.name, self.gear_text())
        try:
            results = self.loaded.program.run(arrays)
        except ComputeError as error:
            return here.fail(RT_MODEL_EXECUTE, f"model {self.loaded.number} failed: {error}")
        if self.gear is not None and tuple(result.shape for result in results) != model.output_shapes[self.gear]:
            # Only a file that the converter did not write claims other shapes than its graph has.
            return here.fail(RT_MODEL_EXECUTE, f"model {self.loaded.number}: its graph gives other shapes than its file says")
        for index, (place, result) in enumerate(zip(self.outputs, results, strict=True)):
            data = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
            if place.size < data.nbytes:
                here.violate(
                    "short buffer",
                    f"output {index} of model {self.loaded.number} has a buffer of {place.size} bytes, "
                    f"gear {self.gear_text()} writes {data.nbytes}",
                )
            if data.nbytes:
                here.memory.write(place.address, data.data, f"output {index} of execute", side="device")
        return 0

    def _read(self, index: int, shape: Shape) -> Array:
        model = self.loaded.model
        dtype = NUMPY_TYPES[model.inputs[index].acl_type]
        config = model.aipp[index]
        if config is not None and config.dynamic:
            return self._preprocess(index, shape, dtype)
        data = self._bytes(index, client_bytes(model, index, shape))
        if config is not None:
            return config.apply(np.frombuffer(data, np.uint8).reshape(config.source_shape(shape)), shape, dtype)
        if dtype == np.bool_:
            return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)  # any other byte than 0 and 1 is no bool
        return np.frombuffer(data, dtype).reshape(shape)

    def _bytes(self, index: int, needed: int) -> memoryview | bytes:
        place = self.inputs[index]
        if place.size < needed:
            machine().violate(
                "short buffer",
                f"input {index} of model {self.loaded.number} has a buffer of {place.size} bytes, "
                f"gear {self.gear_text()} reads {needed}",
            )
        if not needed:
            return b""
        data = machine().memory.view(place.address, needed, f"input {index} of execute", side="device")
        return data if len(data) == needed else bytes(data).ljust(needed, b"\0")

    def _preprocess(self, index: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """The images of an input with dynamic AIPP, each as its parameters say.

        Whatever the gear is, AIPP works on the largest batch: the buffer must hold that many images.
        """
        images = self._aipp_parameters(index, (self.loaded.model.largest_batch(index), *shape[1:]))
        size = math.prod(images[0].source_shape(shape)[1:])
        data = np.frombuffer(self._bytes(index, len(images) * size), np.uint8)
        return np.concatenate(
            [
                config.apply(data[at * size :][:size].reshape(config.source_shape((1, *shape[1:]))), (1, *shape[1:]), dtype)
                for at, config in enumerate(images[: shape[0]])
            ]
        )

    def _aipp_parameters(self, index: int, shape: Shape) -> list[AippConfig]:
        """What lies in the AIPP input for data input `index`, `shape` that of the model's input at its largest batch.

        Raises:
            AippError: it does not lead to the model's input; a violation before.
        """
        here = machine()
        slot = aipp_input(self.loaded.model, index)
        place = self.inputs[slot]
        name = f"AIPP input {slot} of model {self.loaded.number}"
        found = here.memory.read(place.address, _dynamic_aipp.data_bytes(shape[0]), name, side="device")
        written = models().aipp_bytes.get(place.address)
        if written is None:
            here.violate("no AIPP set", f"{name}: no set_input_aipp wrote it; hardware would run whatever lies there")
        try:
            images = _dynamic_aipp.parse(found)
            if len(images) != shape[0]:
                raise AippError(f"parameters of {len(images)} images where the largest batch has {shape[0]}")
            for config in images:
                config.source_shape(shape)
        except AippError as error:
            here.violate("bad AIPP parameters", f"{name}: {error}")
            raise
        if written not in (None, found):
            here.violate("AIPP input written", f"{name}: it holds other bytes than set_input_aipp wrote last")
        return images

    def _gear(self) -> int:
        here = machine()
        model = self.loaded.model
        index = len(model.inputs)
        place = self.inputs[index]
        count = model.values_per_gear
        width = 8 if place.size >= 8 * count else 4
        name = f"gear input of model {self.loaded.number}"
        found = bytes(here.memory.view(place.address, width * count, name, side="device")).ljust(width * count, b"\0")
        values = tuple(int.from_bytes(found[at : at + width], "little") for at in range(0, len(found), width))
        written = models().gear_bytes.get(place.address)
        if self.failed_set:
            here.violate("failed gear set", f"{name}: {self.failed_set} failed, and this dataset is executed all the same")
        elif written is None:
            here.violate("no gear set", f"{name}: no set_dynamic_* wrote it; hardware would run whatever lies there")
        elif written[: len(found)] != found:
            here.violate("gear input written", f"{name}: it holds {values}, which no set_dynamic_* wrote last")
        if values in model.gears:
            return model.gears.index(values)
        here.violate("no gear", f"{name}: {values} is no gear of {list(model.gears)}")
        return model.largest_gear  # what the converter's manual says of a gear that was never set

    def _range_shapes(self) -> tuple[Shape, ...]:
        model = self.loaded.model
        shapes: list[Shape] = []
        for index, tensor in enumerate(model.inputs):
            if -1 not in tensor.dims:
                shapes.append(tensor.dims)
                continue
            known = self.dataset.tensor_descs.get(index)
            if known is None:
                raise Refused(
                    GE_PARAM_INVALID, f"input {index} needs set_dataset_tensor_desc: its shape is {list(tensor.dims)}"
                )
            given = tuple(known[1].dims)
            fits = len(given) == len(tensor.dims) and all(
                low <= size and (high == -1 or size <= high)
                for size, (low, high) in zip(given, model.ranges[index], strict=True)
            )
            if not fits:
                raise Refused(GE_PARAM_INVALID, f"input {index}: {list(given)} is outside {list(model.ranges[index])}")
            shapes.append(given)
        return tuple(shapes)


def new_execution(loaded: Loaded, dataset: Dataset, output: Dataset, *, asynchronous: bool) -> Execution:
    """Check a call of execute or execute_async (3.5) and note where the data lies.

    Raises:
        Refused: 145000 for the wrong number of buffers, 500002 for mixed modes and for a buffer that is too short without a
            gear, 100000 for a null address where none may be (Decision: silent in the contract).
    """
    here = machine()
    model = loaded.model
    mode = "execute_async" if asynchronous else "execute"
    if loaded.mode not in ("", mode):
        raise Refused(GE_FAILURE, f"model {loaded.number} is used with {loaded.mode}; {mode} cannot be mixed with it")
    context = here.current_context()
    if context is not loaded.context:
        here.violate("other context", f"model {loaded.number} was loaded in another context (at {loaded.site})")
    wanted, results = loaded.inputs, loaded.outputs
    for what, count, given in (("input", len(wanted), dataset.buffers), ("output", len(results), output.buffers)):
        if len(given) != count:
            raise Refused(GE_PARAM_INVALID, f"model {loaded.number} has {count} {what}s, the dataset {len(given)} buffers")
    inputs = [_buffer(handle) for handle in dataset.buffers]
    outputs = [_buffer(handle) for handle in output.buffers]
    for index, buffer in enumerate(inputs):
        if buffer.address == 0 and wanted[index].size_bytes:
            raise null(f"the address of input {index}")
    if model.gears and dataset.tensor_descs:
        # 3.3: one model takes only one of the ways to say a shape; what the card makes of two is not said.
        here.violate("gear and tensor desc", f"model {loaded.number} has gears: set_dataset_tensor_desc does not go with them")
    if asynchronous and any(buffer.address == 0 for buffer in outputs):
        raise null("the address of an output (only execute allocates one)")
    # Decision: of a shape range the sizes at hand count, not those of the upper bounds; they are checked when it runs.
    if dataset.mark is None and model.gear_kind is not GearKind.RANGE and not model.dynamic_aipp:
        _check_sizes("input", wanted, inputs)
        _check_sizes("output", results, outputs)
    for slot, buffer in zip(results, outputs, strict=True):
        if buffer.address == 0 and slot.size_bytes:
            # 3.5: the runtime allocates, and the user must free it.
            buffer.address = here.memory.allocate_device(slot.size_bytes, context.device)
            buffer.size = slot.size_bytes
    loaded.mode = mode
    return Execution(
        loaded,
        dataset,
        [_Place(buffer.address, buffer.size) for buffer in inputs],
        [_Place(buffer.address, buffer.size) for buffer in outputs],
        dataset.failed_set,
    )


def _check_sizes(what: str, slots: Sequence[Slot], buffers: Sequence[DataBuffer]) -> None:
    for index, (slot, buffer) in enumerate(zip(slots, buffers, strict=True)):
        if buffer.address and buffer.size + _SLACK_BYTES < slot.size_bytes:
            raise Refused(
                GE_FAILURE, f"{what} {index} has {buffer.size} bytes, the model needs {slot.size_bytes}", SHORT_BUFFER
            )


def _buffer(handle: int) -> DataBuffer:
    buffer: DataBuffer = machine().handles.get("data buffer", handle)
    return buffer


def ordered_after(stream: Stream, earlier: Task) -> bool:
    """Whether work put on the stream now starts only after `earlier` has ended: same stream, synchronised, or by events."""
    if earlier.synced or earlier.stream is stream:
        return True
    seen: set[int] = set()
    queue = [task for task in stream.unsynced if task.after is not None]
    while queue:
        after = queue.pop().after
        if after is None or after.sequence in seen:
            continue
        seen.add(after.sequence)
        if after.stream is earlier.stream and after.sequence >= earlier.sequence:
            return True
        queue += [task for task in after.stream.unsynced if task.after is not None and task.sequence <= after.sequence]
    return False
