"""`acl.mdl`: load, describe, gears, execute; AIPP lies in `_aipp_functions`. contracts/pyacl.md 1.3, 1.4, 2, 3.3 to 3.6.

"Decision:" marks what the contract leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acl_sim import _om
from acl_sim._aipp_functions import (  # noqa: F401 - this module offers them
    create_aipp,
    destroy_aipp,
    get_aipp_data_size,
    get_aipp_type,
    get_first_aipp_info,
    set_aipp_ax_swap_switch,
    set_aipp_by_input_index,
    set_aipp_crop_params,
    set_aipp_csc_params,
    set_aipp_dtc_pixel_mean,
    set_aipp_dtc_pixel_min,
    set_aipp_input_format,
    set_aipp_padding_params,
    set_aipp_pixel_var_reci,
    set_aipp_rbuv_swap_switch,
    set_aipp_scf_params,
    set_aipp_src_image_size,
    set_input_aipp,
)
from acl_sim._arguments import parse_error, parse_one
from acl_sim._buffers import DataBuffer, TensorDesc
from acl_sim._errors import INVALID_PARAM, NULL_POINTER, RT_STREAM_CONTEXT, NotSimulated, Refused, null
from acl_sim._machine import ENTRIES, HANDLE, PAIR, api, constant, machine, shape
from acl_sim._models import (
    GE_DYNAMIC_BATCH_SIZE_INVALID,
    GE_DYNAMIC_INPUT_LENGTH_INVALID,
    GE_FAILURE,
    GE_INTERNAL,
    Dataset,
    Loaded,
    Slot,
    dataset_of,
    dims_dict,
    drop,
    inputs_of,
    models,
    new_execution,
    ordered_after,
    outputs_of,
    shown_name,
    slot_of,
)
from acl_sim._om import Bundle, GearKind, Model, OmError

_API_NOT_SUPPORT = 200001
_STORAGE_OVER_LIMIT = 300000
_MAX_GEARS_READ = 128
_MAX_DIMS_GEARS = 4096
_DUMP_ATTRIBUTE = "_datadump_original_op_names"

_DICT = shape({})
_NO_NAME = constant("")
_MINUS_ONE = constant(-1)
_NONE = constant(None)


@dataclass(eq=False)
class _Desc:
    """A model desc; empty until get_desc fills it. `number` is 0 when it came from a file."""

    number: int = 0
    model: Model | None = None
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()


@dataclass(eq=False)
class _LoadConfig:
    options: dict[int, Any]


# Loading


def _parse(read: Callable[[], Model | Bundle]) -> Model | Bundle:
    try:
        return read()
    except OmError as error:
        raise Refused(error.code, str(error)) from error


def _single(content: Model | Bundle) -> Model:
    if isinstance(content, Bundle):
        # Decision: the contract does not say what a bundle given to a plain load answers.
        raise Refused(_om.OmDataError.code, "the file is a bundle: bundle_load_from_file loads it")
    return content


def _from_file(path: str) -> Model | Bundle:
    return _parse(lambda: _om.read(Path(path)))


def _from_memory(address: int, size: int) -> Model | Bundle:
    if address == 0:
        raise null("the address of a model")
    if size == 0:
        raise Refused(INVALID_PARAM, "a model of 0 bytes")
    content = machine().memory.read(address, size, "model to load", side="host")
    return _parse(lambda: _om.parse(content))


@api("acl.mdl.load_from_file", "s", failed=PAIR)
def load_from_file(path: str) -> tuple[int, int]:
    """`(model_id, ret)`: 145001 before init, 145002 path, 145006 content."""
    models().check_ready()
    return models().load(_single(_from_file(path))), 0


@api("acl.mdl.load_from_mem", "kk", failed=PAIR)
def load_from_mem(address: int, size: int) -> tuple[int, int]:
    """`(model_id, ret)`; the bytes are consumed before it returns. 100000 for null or size 0, 145006 for the content."""
    models().check_ready()
    return models().load(_single(_from_memory(address, size))), 0


@api("acl.mdl.load_from_file_with_mem", "skkkk", failed=PAIR)
def load_from_file_with_mem(path: str, work: int, work_size: int, weight: int, weight_size: int) -> tuple[int, int]:
    """As load_from_file in the user's memory, which must outlive the model; address 0: the runtime allocates."""
    models().check_ready()
    return models().load(_single(_from_file(path)), (work, work_size), (weight, weight_size)), 0


@api("acl.mdl.load_from_mem_with_mem", "kkkkkk", failed=PAIR)
def load_from_mem_with_mem(
    address: int, size: int, work: int, work_size: int, weight: int, weight_size: int
) -> tuple[int, int]:
    """As load_from_mem in the user's memory."""
    models().check_ready()
    return models().load(_single(_from_memory(address, size)), (work, work_size), (weight, weight_size)), 0


@api("acl.mdl.create_config_handle", "", failed=HANDLE)
def create_config_handle() -> int:
    """A handle for load_with_config."""
    return machine().handles.new("load config", _LoadConfig({}))


@api("acl.mdl.set_config_opt", "kiO")
def set_config_opt(handle: int, attribute: int, value: Any) -> int:
    """Set one attribute (numbers: contract 1.7); the value's letter depends on it: i for 0, s for 2, k or K else."""
    letter = {0: "i", 2: "s", 3: "k", 5: "k", 7: "k", 14: "k"}.get(attribute, "K")
    parsed = parse_one("acl.mdl.set_config_opt", letter, value)
    if handle == 0:
        raise null("the config handle")
    config: _LoadConfig = machine().handles.get("load config", handle)
    if not 0 <= attribute <= 14:
        raise Refused(INVALID_PARAM, f"attribute {attribute} is not one of 0 to 14")
    config.options[attribute] = parsed
    return 0


@api("acl.mdl.load_with_config", "k", failed=PAIR)
def load_with_config(handle: int) -> tuple[int, int]:
    """`(model_id, ret)` by load types 1 to 4; a missing attribute is 100000. Types with queues are not simulated."""
    models().check_ready()
    if handle == 0:
        raise null("the config handle")
    config: _LoadConfig = machine().handles.get("load config", handle)
    options = config.options
    kind = options.get(1)
    if kind in (5, 6):
        raise NotSimulated("acl.mdl.load_with_config with queues (load types 5 and 6) is not simulated by acl_sim")
    if kind not in (1, 2, 3, 4):
        raise Refused(INVALID_PARAM, f"load type {kind} is not one of 1 to 4")
    needed = (2,) if kind in (1, 2) else (3, 4)
    missing = [attribute for attribute in needed if attribute not in options]
    if missing:
        raise Refused(INVALID_PARAM, f"load type {kind} needs the attributes {missing}")
    content = _from_file(options[2]) if kind in (1, 2) else _from_memory(options[3], options[4])
    if kind in (1, 3):
        return models().load(_single(content)), 0
    work = options.get(7, 0), options.get(8, 0)
    weight = options.get(5, 0), options.get(6, 0)
    return models().load(_single(content), work, weight), 0


@api("acl.mdl.destroy_config_handle", "k")
def destroy_config_handle(handle: int) -> int:
    """End a config handle; null 100000."""
    return drop("load config", handle)


def _sizes(model: Model) -> tuple[int, int, int]:
    if model.gear_kind is GearKind.RANGE:
        # Decision: not usable there, the contract says; it does not say as what.
        raise Refused(GE_FAILURE, "the work size of a shape-range model is not decided when it is built")
    return model.work_bytes, model.weight_bytes, 0


@api("acl.mdl.query_size", "s", failed=shape(0, 0))
def query_size(path: str) -> tuple[int, int, int]:
    """`(work_size, weight_size, ret)`."""
    return _sizes(_single(_from_file(path)))


@api("acl.mdl.query_size_from_mem", "kk", failed=shape(0, 0))
def query_size_from_mem(address: int, size: int) -> tuple[int, int, int]:
    """`(work_size, weight_size, ret)`."""
    return _sizes(_single(_from_memory(address, size)))


@api("acl.mdl.unload", "I")
def unload(number: int) -> int:
    """End a model: 145003 unknown, 100000 for an inner model of a bundle."""
    if models().get(number).bundle:
        raise Refused(INVALID_PARAM, f"model {number} belongs to a bundle: bundle_unload ends it")
    models().unload(number)
    return 0


@api("acl.mdl.bundle_load_from_file", "s", failed=PAIR)
def bundle_load_from_file(path: str) -> tuple[int, int]:
    """`(bundle_id, ret)`. Decision: a file with one plain model is a bundle of one."""
    models().check_ready()
    content = _from_file(path)
    return models().load_bundle(content if isinstance(content, Bundle) else Bundle((content,))), 0


@api("acl.mdl.bundle_load_from_mem", "kk", failed=PAIR)
def bundle_load_from_mem(address: int, size: int) -> tuple[int, int]:
    """`(bundle_id, ret)`."""
    models().check_ready()
    content = _from_memory(address, size)
    return models().load_bundle(content if isinstance(content, Bundle) else Bundle((content,))), 0


def _bundle(number: int) -> list[int]:
    bundle = models().bundles.get(number)
    if bundle is None:
        raise Refused(INVALID_PARAM, f"no bundle has the id {number}")
    return bundle


@api("acl.mdl.bundle_get_model_num", "I", failed=PAIR)
def bundle_get_model_num(number: int) -> tuple[int, int]:
    """`(n, ret)`."""
    return len(_bundle(number)), 0


@api("acl.mdl.bundle_get_model_id", "Ik", failed=PAIR)
def bundle_get_model_id(number: int, index: int) -> tuple[int, int]:
    """`(model_id, ret)`; index >= number of models 100000."""
    inner = _bundle(number)
    if index >= len(inner):
        raise Refused(INVALID_PARAM, f"bundle {number} has {len(inner)} models, asked for {index}")
    return inner[index], 0


@api("acl.mdl.bundle_unload", "I")
def bundle_unload(number: int) -> int:
    """End a bundle and its models."""
    for inner in _bundle(number):
        models().unload(inner)
    del models().bundles[number]
    return 0


# Describing


@api("acl.mdl.create_desc", "", failed=HANDLE)
def create_desc() -> int:
    """An empty model desc."""
    return machine().handles.new("model desc", _Desc())


@api("acl.mdl.destroy_desc", "k")
def destroy_desc(handle: int) -> int:
    """End a desc; null 100000."""
    return drop("model desc", handle)


def _desc(handle: int) -> _Desc:
    if handle == 0:
        raise null("the model desc")
    desc: _Desc = machine().handles.get("model desc", handle)
    return desc


def _filled(handle: int) -> tuple[_Desc, Model]:
    desc = _desc(handle)
    if desc.model is None:
        raise Refused(INVALID_PARAM, "the model desc is empty: call get_desc first")
    return desc, desc.model


def _fill(handle: int, number: int, read: Callable[[], Model]) -> int:
    desc = _desc(handle)
    model = read()
    desc.number, desc.model = number, model
    desc.inputs, desc.outputs = tuple(inputs_of(model)), tuple(outputs_of(model))
    return 0


@api("acl.mdl.get_desc", "kI")
def get_desc(handle: int, number: int) -> int:
    """Fill a desc from a loaded model: null 100000, unknown id 145003."""
    return _fill(handle, number, lambda: models().get(number).model)


@api("acl.mdl.get_desc_from_file", "ks")
def get_desc_from_file(handle: int, path: str) -> int:
    """Fill a desc from a file; nothing is loaded."""
    return _fill(handle, 0, lambda: _single(_from_file(path)))


@api("acl.mdl.get_desc_from_mem", "kkk")
def get_desc_from_mem(handle: int, address: int, size: int) -> int:
    """Fill a desc from the bytes of a file."""
    return _fill(handle, 0, lambda: _single(_from_memory(address, size)))


@api("acl.mdl.get_num_inputs", "k", failed=HANDLE)
def get_num_inputs(handle: int) -> int:
    """How many inputs, the gear input among them; null 0."""
    return len(_desc(handle).inputs)


@api("acl.mdl.get_num_outputs", "k", failed=HANDLE)
def get_num_outputs(handle: int) -> int:
    """How many outputs; null 0."""
    return len(_desc(handle).outputs)


@api("acl.mdl.get_input_size_by_index", "kk", failed=HANDLE)
def get_input_size_by_index(handle: int, index: int) -> int:
    """Bytes of an input at its largest gear; 0 out of range, and for a shape range without bound."""
    return slot_of(_desc(handle).inputs, index, "input").size_bytes


@api("acl.mdl.get_output_size_by_index", "kk", failed=HANDLE)
def get_output_size_by_index(handle: int, index: int) -> int:
    """Bytes of an output at its largest gear; 0 out of range, and for a shape range without bound."""
    return slot_of(_desc(handle).outputs, index, "output").size_bytes


def _shown(desc: _Desc, kind: str, index: int) -> str:
    slots = desc.inputs if kind == "input" else desc.outputs
    names = [slot.name for slot in (*desc.inputs, *desc.outputs)]
    return shown_name(desc.number, kind, index, slots[index].name, names)


@api("acl.mdl.get_input_dims", "kk", failed=_DICT)
def get_input_dims(handle: int, index: int) -> tuple[dict[str, Any], int]:
    """`(dims, ret)`, -1 in dynamic axes. With AIPP those of the images, [n, h, w, channels]; dynamic: [n, -1, -1, -1]."""
    desc, _ = _filled(handle)
    slot = slot_of(desc.inputs, index, "input")
    return dims_dict(_shown(desc, "input", index), slot.dims), 0


@api("acl.mdl.get_input_dims_v2", "kk", failed=_DICT)
def get_input_dims_v2(handle: int, index: int) -> tuple[dict[str, Any], int]:
    """As get_input_dims; with static AIPP the product is the input's size.

    The two differ for formats whose pixels share bytes, and of those none is simulated.
    """
    desc, _ = _filled(handle)
    slot = slot_of(desc.inputs, index, "input")
    return dims_dict(_shown(desc, "input", index), slot.dims), 0


@api("acl.mdl.get_output_dims", "kk", failed=_DICT)
def get_output_dims(handle: int, index: int) -> tuple[dict[str, Any], int]:
    """`(dims, ret)`: of a model with gears at the largest, concrete; of a shape range with -1."""
    desc, _ = _filled(handle)
    slot = slot_of(desc.outputs, index, "output")
    return dims_dict(_shown(desc, "output", index), slot.dims), 0


@api("acl.mdl.get_cur_output_dims", "kk", failed=_DICT)
def get_cur_output_dims(handle: int, index: int) -> tuple[dict[str, Any], int]:
    """`(dims, ret)` at the gear that was last accepted for this model id; never set: the largest (contract 3.4)."""
    desc, model = _filled(handle)
    slot = slot_of(desc.outputs, index, "output")
    name = _shown(desc, "output", index)
    if model.gear_kind is GearKind.RANGE:
        raise Refused(_API_NOT_SUPPORT, "get_cur_output_dims does not answer for a shape range")
    loaded = models().find(desc.number)
    if loaded is None and desc.number:
        # Decision: the desc outlives the model, its current gear does not.
        raise Refused(145003, f"model {desc.number} is unloaded")
    if loaded is None or loaded.current is None:
        return dims_dict(name, slot.dims), 0
    kind, values = loaded.current
    if kind is not model.gear_kind:
        raise Refused(GE_INTERNAL, f"the gear was set as one of {kind.value}, the model has those of {model.gear_kind.value}")
    return dims_dict(name, model.output_shapes[model.gears.index(values)][index]), 0


@api("acl.mdl.get_input_dims_range", "kk", failed=_DICT)
def get_input_dims_range(handle: int, index: int) -> tuple[dict[str, Any], int]:
    """`({'rangeCount', 'range'}, ret)`: lowest and highest per axis, -1 without bound. Decision: none unless a shape range."""
    desc, model = _filled(handle)
    slot_of(desc.inputs, index, "input")
    ranges = [list(axis) for axis in model.ranges[index]] if model.ranges else []
    return {"rangeCount": len(ranges), "range": ranges}, 0


@api("acl.mdl.get_input_name_by_index", "kk", failed=_NO_NAME)
def get_input_name_by_index(handle: int, index: int) -> str:
    """The name; "" out of range."""
    desc = _desc(handle)
    slot_of(desc.inputs, index, "input")
    return _shown(desc, "input", index)


@api("acl.mdl.get_output_name_by_index", "kk", failed=_NO_NAME)
def get_output_name_by_index(handle: int, index: int) -> str:
    """The name, `<node>:<output index>:<onnx name>`; "" out of range."""
    desc = _desc(handle)
    slot_of(desc.outputs, index, "output")
    return _shown(desc, "output", index)


def _index_by_name(handle: int, kind: str, name: str) -> tuple[int, int]:
    """Decision: a tensor whose name is too long to show is found by its whole name as well as by the one shown."""
    desc = _desc(handle)
    slots = desc.inputs if kind == "input" else desc.outputs
    for index, slot in enumerate(slots):
        if name in (slot.name, _shown(desc, kind, index)):
            return index, 0
    raise Refused(INVALID_PARAM, f"no {kind} is named {name!r}")


@api("acl.mdl.get_input_index_by_name", "ks", failed=PAIR)
def get_input_index_by_name(handle: int, name: str) -> tuple[int, int]:
    """`(index, ret)`, not found `(0, 100000)`."""
    return _index_by_name(handle, "input", name)


@api("acl.mdl.get_output_index_by_name", "ks", failed=PAIR)
def get_output_index_by_name(handle: int, name: str) -> tuple[int, int]:
    """`(index, ret)`, not found `(0, 100000)`."""
    return _index_by_name(handle, "output", name)


@api("acl.mdl.get_tensor_real_name", "ks", failed=_NONE)
def get_tensor_real_name(handle: int, name: str) -> str | None:
    """The whole name of a tensor whose name was too long to show; None for a name that no tensor has."""
    desc = _desc(handle)
    for kind, slots in (("input", desc.inputs), ("output", desc.outputs)):
        for index, slot in enumerate(slots):
            if name in (slot.name, _shown(desc, kind, index)):
                return slot.name
    return None


@api("acl.mdl.get_input_data_type", "kk", failed=_MINUS_ONE)
def get_input_data_type(handle: int, index: int) -> int:
    """Number of the type; -1 out of range."""
    return slot_of(_desc(handle).inputs, index, "input").acl_type


@api("acl.mdl.get_output_data_type", "kk", failed=_MINUS_ONE)
def get_output_data_type(handle: int, index: int) -> int:
    """Number of the type; -1 out of range."""
    return slot_of(_desc(handle).outputs, index, "output").acl_type


@api("acl.mdl.get_input_format", "kk", failed=_MINUS_ONE)
def get_input_format(handle: int, index: int) -> int:
    """Number of the format; -1 out of range."""
    return slot_of(_desc(handle).inputs, index, "input").format


@api("acl.mdl.get_output_format", "kk", failed=_MINUS_ONE)
def get_output_format(handle: int, index: int) -> int:
    """Number of the format; -1 out of range."""
    return slot_of(_desc(handle).outputs, index, "output").format


@api("acl.mdl.get_op_attr", "kss", failed=_NONE)
def get_op_attr(handle: int, operator: str, attribute: str) -> str | None:  # noqa: ARG001 - nothing is fused here
    """Only `_datadump_original_op_names` is known. Decision: the simulator fuses nothing, so it is empty for every operator."""
    _filled(handle)
    return "" if attribute == _DUMP_ATTRIBUTE else None


@api("acl.mdl.get_dynamic_batch", "k", failed=_DICT)
def get_dynamic_batch(handle: int) -> tuple[dict[str, Any], int]:
    """`({'batchCount', 'batch'}, ret)`, in command-line order; none for another kind of model."""
    _, model = _filled(handle)
    gears = _listed(model, GearKind.BATCH)
    return {"batchCount": len(gears), "batch": [gear[0] for gear in gears]}, 0


@api("acl.mdl.get_dynamic_hw", "kk", failed=_DICT)
def get_dynamic_hw(handle: int, index: int) -> tuple[dict[str, Any], int]:  # noqa: ARG001 - the vendor ignores it, too
    """`({'hwCount', 'hw'}, ret)`, in command-line order; the index is ignored."""
    _, model = _filled(handle)
    gears = _listed(model, GearKind.IMAGE)
    return {"hwCount": len(gears), "hw": [list(gear) for gear in gears]}, 0


def _listed(model: Model, kind: GearKind) -> tuple[tuple[int, ...], ...]:
    gears = model.gears if model.gear_kind is kind else ()
    if len(gears) > _MAX_GEARS_READ:
        raise Refused(_STORAGE_OVER_LIMIT, f"{len(gears)} gears, {_MAX_GEARS_READ} can be read")
    return gears


@api("acl.mdl.get_input_dynamic_gear_count", "kk", failed=PAIR)
def get_input_dynamic_gear_count(handle: int, index: int) -> tuple[int, int]:
    """`(count, ret)` of n-d gears; the index must be -1."""
    _, model = _filled(handle)
    if index != (1 << 64) - 1:
        raise Refused(INVALID_PARAM, f"the index must be -1, got {index}")
    return (len(model.gears) if model.gear_kind is GearKind.DIMS else 0), 0


@api("acl.mdl.get_input_dynamic_dims", "kkk", failed=shape(None))
def get_input_dynamic_dims(handle: int, index: int, count: int) -> tuple[list[dict[str, Any]] | None, int]:
    """`(list of dims, ret)`, one per gear: all inputs' shapes in the order of --input_shape, one behind the other.

    A count above the real one gives surplus empty dicts. Decision: where C fails and the real list has unfilled slots, whose
    touch is undefined, this one has None in them.
    """
    if count > _MAX_DIMS_GEARS:
        raise Refused(INVALID_PARAM, f"{count} gears asked, at most {_MAX_DIMS_GEARS}")
    _, model = _filled(handle)
    gears = range(len(model.gears)) if model.gear_kind is GearKind.DIMS else range(0)
    if index != (1 << 64) - 1 or count < len(gears):
        code = machine().fail(INVALID_PARAM, f"index {index} must be -1, and {count} gears at least {len(gears)}")
        return [None] * count, code  # type: ignore[list-item]
    found: list[dict[str, Any]] = [dims_dict("", _flat(model, gear)) for gear in gears]
    return [*found, *({} for _ in range(count - len(found)))], 0


def _flat(model: Model, gear: int) -> list[int]:
    shapes = model.input_shapes(gear)
    return [size for index in model.shape_order for size in shapes[index]]


# Datasets


@api("acl.mdl.create_dataset", "", failed=HANDLE)
def create_dataset() -> int:
    """An empty dataset."""
    return machine().handles.new("dataset", Dataset())


@api("acl.mdl.destroy_dataset", "k")
def destroy_dataset(handle: int) -> int:
    """End a dataset, not the data buffers in it; null 100000."""
    if handle:
        for owned, _ in dataset_of(handle).tensor_descs.values():
            machine().handles.drop("tensor desc", owned)
    return drop("dataset", handle)


@api("acl.mdl.add_dataset_buffer", "kk", failed=PAIR)
def add_dataset_buffer(handle: int, buffer: int) -> tuple[int, int]:
    """Append a data buffer: `(dataset, ret)`; either null 100000. Decision: the first item is then the dataset as given."""
    if handle == 0 or buffer == 0:
        return handle, machine().fail(INVALID_PARAM, "the dataset or the data buffer is null", NULL_POINTER)
    machine().handles.get("data buffer", buffer)
    dataset_of(handle).buffers.append(buffer)
    return handle, 0


@api("acl.mdl.get_dataset_num_buffers", "k", failed=HANDLE)
def get_dataset_num_buffers(handle: int) -> int:
    """How many data buffers; null 0."""
    return len(dataset_of(handle).buffers)


@api("acl.mdl.get_dataset_buffer", "kk", failed=HANDLE)
def get_dataset_buffer(handle: int, index: int) -> int:
    """The data buffer; out of range 0."""
    buffers = dataset_of(handle).buffers
    if index >= len(buffers):
        raise Refused(INVALID_PARAM, f"buffer {index}: the dataset has {len(buffers)}")
    return buffers[index]


@api("acl.mdl.set_dataset_tensor_desc", "kkk", failed=PAIR)
def set_dataset_tensor_desc(handle: int, tensor_desc: int, index: int) -> tuple[int, int]:
    """`(dataset, ret)`: the shape of one buffer, for shape-range models; the desc is copied, only its dims matter."""
    if handle == 0 or tensor_desc == 0:
        return handle, machine().fail(INVALID_PARAM, "the dataset or the tensor desc is null", NULL_POINTER)
    dataset = dataset_of(handle)
    desc: TensorDesc = machine().handles.get("tensor desc", tensor_desc)
    if index >= len(dataset.buffers):
        return handle, machine().fail(INVALID_PARAM, f"buffer {index}: the dataset has {len(dataset.buffers)}")
    known = dataset.tensor_descs.get(index)
    copied = TensorDesc(desc.data_type, list(desc.dims), desc.format, desc.name)
    if known is None:
        dataset.tensor_descs[index] = machine().handles.new("tensor desc", copied, counts_as_leak=False), copied
    else:
        _, there = known
        there.data_type, there.dims, there.format, there.name = copied.data_type, copied.dims, copied.format, copied.name
    return handle, 0


@api("acl.mdl.get_dataset_tensor_desc", "kk", failed=HANDLE)
def get_dataset_tensor_desc(handle: int, index: int) -> int:
    """The dataset's own tensor desc of one buffer; 0 where none was set."""
    known = dataset_of(handle).tensor_descs.get(index)
    return 0 if known is None else known[0]


# Gears: contract 3.3, in its order


def _gear_buffer(handle: int, index: int, values: Sequence[int]) -> tuple[Dataset, DataBuffer]:
    dataset = dataset_of(handle)
    if any(value == 0 for value in values):
        raise Refused(INVALID_PARAM, f"a gear of {list(values)}: every value must be at least 1")
    if index >= len(dataset.buffers):
        raise Refused(INVALID_PARAM, f"buffer {index}: the dataset has {len(dataset.buffers)}")
    buffer: DataBuffer = machine().handles.get("data buffer", dataset.buffers[index])
    if buffer.address == 0:
        raise null(f"the address of buffer {index}")
    return dataset, buffer


def _write_gear(loaded: Loaded, buffer: DataBuffer, index: int, values: Sequence[int]) -> None:
    """Write an accepted gear into the buffer: 8 bytes per value where it is long enough, else 4."""
    model = loaded.model
    if index != len(model.inputs):
        machine().violate(
            "gear in a data input", f"buffer {index} of model {loaded.number} is not its gear input: the set overwrites it"
        )
    width = 8 if buffer.size >= 8 * len(values) else 4
    data = b"".join((value & ((1 << (8 * width)) - 1)).to_bytes(width, "little") for value in values)
    machine().check_not_in_flight(buffer.address, len(data), "set of a gear", writing=True)
    machine().memory.write(buffer.address, data, "gear input", side="device")
    models().gear_bytes[buffer.address] = data


def _set_sizes(name: str, kind: GearKind, number: int, handle: int, index: int, values: tuple[int, ...]) -> int:
    dataset, buffer = _gear_buffer(handle, index, values)
    dataset.mark = values  # before the model is asked: a refused gear stays marked
    dataset.failed_set = f"{name}({', '.join(map(str, values))})"
    if buffer.size < 4 * len(values):
        raise Refused(GE_DYNAMIC_INPUT_LENGTH_INVALID, f"the gear input has {buffer.size} bytes, {4 * len(values)} are needed")
    loaded = models().get(number)
    # The engine compares the number of values only: n-d gears with as many pass, too. Batch and image gears never have as many.
    if values not in loaded.model.gears:
        raise Refused(GE_DYNAMIC_BATCH_SIZE_INVALID, f"{list(values)} is no gear of model {number}: {list(loaded.model.gears)}")
    _write_gear(loaded, buffer, index, values)
    loaded.current = kind, values
    dataset.failed_set = ""
    return 0


@api("acl.mdl.set_dynamic_batch_size", "IkkK")
def set_dynamic_batch_size(number: int, handle: int, index: int, batch: int) -> int:
    """Set a batch gear: 100000, 145012, 145003, 145013, in this order."""
    return _set_sizes("set_dynamic_batch_size", GearKind.BATCH, number, handle, index, (batch,))


@api("acl.mdl.set_dynamic_hw_size", "IkkKK")
def set_dynamic_hw_size(number: int, handle: int, index: int, height: int, width: int) -> int:
    """Set an image gear, height before width."""
    return _set_sizes("set_dynamic_hw_size", GearKind.IMAGE, number, handle, index, (height, width))


@api("acl.mdl.set_input_dynamic_dims", "IkkO")
def set_input_dynamic_dims(number: int, handle: int, index: int, dims: Any) -> int:
    """Set an n-d gear from a dict as get_input_dynamic_dims gives it."""
    wanted = _parse_dims(dims)
    dataset, buffer = _gear_buffer(handle, index, ())
    if not wanted:
        raise Refused(INVALID_PARAM, "dims without values")
    dataset.mark = None
    dataset.failed_set = f"set_input_dynamic_dims({wanted})"
    loaded = models().get(number)
    model = loaded.model
    axes = [dim for position in model.shape_order for dim in model.inputs[position].dims]
    if len(wanted) != len(axes):
        raise Refused(GE_DYNAMIC_INPUT_LENGTH_INVALID, f"{len(wanted)} values where the inputs have {len(axes)} axes")
    for given, axis in zip(wanted, axes, strict=True):
        if axis not in (-1, given):
            raise Refused(GE_DYNAMIC_INPUT_LENGTH_INVALID, f"{wanted}: a fixed axis is {axis}, given {given}")
    values = tuple(given for given, axis in zip(wanted, axes, strict=True) if axis == -1)
    if model.gear_kind is not GearKind.DIMS or values not in model.gears:
        raise Refused(GE_DYNAMIC_BATCH_SIZE_INVALID, f"{list(values)} is no gear of model {number}: {list(model.gears)}")
    if buffer.size < 4 * len(values):
        raise Refused(GE_DYNAMIC_INPUT_LENGTH_INVALID, f"the gear input has {buffer.size} bytes, {4 * len(values)} are needed")
    _write_gear(loaded, buffer, index, values)
    loaded.current = GearKind.DIMS, values
    dataset.mark = values
    dataset.failed_set = ""
    return 0


def _parse_dims(dims: Any) -> list[int]:
    """Read `{'dimCount': n, 'dims': [...]}`; a wrong container is a TypeError, a missing dimCount a violation.

    Decision: a dimCount that is no int, is negative or goes beyond the list is a TypeError, too, and so is a dict without dims;
    without dimCount tolerant mode raises SystemError, the milder of the two outcomes that the contract names.
    """
    error = parse_error("acl.mdl.set_input_dynamic_dims")
    if not isinstance(dims, dict) or not isinstance(dims.get("dims"), list):
        raise error
    if "dimCount" not in dims:
        machine().violate("dims without dimCount", "set_input_dynamic_dims reads a dimCount that is not there")
        raise SystemError("acl.mdl.set_input_dynamic_dims: dimCount is missing")
    count, values = dims["dimCount"], dims["dims"]
    if not isinstance(count, int) or not 0 <= count <= len(values) or any(not isinstance(value, int) for value in values):
        raise error
    return [int(value) for value in values[:count]]


# Executing: contract 3.5


def _executing(number: int, inputs: int, outputs: int) -> tuple[Loaded, Dataset, Dataset]:
    if inputs == 0 or outputs == 0:
        raise null("the dataset")
    return models().get(number), dataset_of(inputs), dataset_of(outputs)


@api("acl.mdl.execute", "Ikk")
def execute(number: int, inputs: int, outputs: int) -> int:
    """Run once and wait; the GIL is held all the while."""
    execution = new_execution(*_executing(number, inputs, outputs), asynchronous=False)
    for place in (*execution.inputs, *execution.outputs):
        machine().check_not_in_flight(place.address, place.size, "execute", writing=place in execution.outputs)
    return machine().run_blocking("compute", execution.start(), execution.finish)


def _queue(number: int, inputs: int, outputs: int, handle: int) -> int:
    loaded, dataset, output = _executing(number, inputs, outputs)
    stream = machine().stream(handle, same_context=True)
    if stream.context.device != loaded.context.device:
        raise Refused(RT_STREAM_CONTEXT, f"model {number} is on device {loaded.context.device}")
    execution = new_execution(loaded, dataset, output, asynchronous=True)
    if loaded.last is not None and not ordered_after(stream, loaded.last):
        machine().violate(
            "one model on two streams",
            f"model {number}: {loaded.last.label} (queued at {loaded.last.site}) is on another stream, and nothing orders "
            "this execution behind it; both would use the model's work memory",
        )
    if execution.loaded.model.gear_kind is GearKind.RANGE:
        execution.start()  # what set_dataset_tensor_desc says now is what counts, and a shape that does not fit is refused here
    loaded.last = machine().submit(
        stream,
        "compute",
        execution.start,
        execution.finish,
        f"execute_async of model {number}",
        reads=tuple((place.address, place.size) for place in execution.inputs),
        writes=tuple((place.address, place.size) for place in execution.outputs),
    )
    return 0


@api("acl.mdl.execute_async", "Ikkk")
def execute_async(number: int, inputs: int, outputs: int, stream: int) -> int:
    """Queue one execution on a stream; 0 means queued."""
    return _queue(number, inputs, outputs, stream)


@api("acl.mdl.execute_v2", "Ikkkk")
def execute_v2(number: int, inputs: int, outputs: int, stream: int, config: int) -> int:
    """As execute_async. Decision: it queues, and the options of its config change nothing here."""
    if config != 0:
        machine().handles.get("execution config", config)
    return _queue(number, inputs, outputs, stream)


@api("acl.mdl.create_exec_config_handle", "", failed=HANDLE)
def create_exec_config_handle() -> int:
    """A handle for execute_v2."""
    return machine().handles.new("execution config", {})


@api("acl.mdl.set_exec_config_opt", "kkI")
def set_exec_config_opt(handle: int, attribute: int, value: int) -> int:
    """Keep an option; null 100000."""
    if handle == 0:
        raise null("the execution config")
    machine().handles.get("execution config", handle)[attribute] = value
    return 0


@api("acl.mdl.destroy_exec_config_handle", "k")
def destroy_exec_config_handle(handle: int) -> int:
    """End a handle; null 100000."""
    return drop("execution config", handle)


__all__ = sorted(entry.removeprefix("acl.mdl.") for entry in ENTRIES if entry.startswith("acl.mdl."))


def __dir__() -> list[str]:
    return __all__
