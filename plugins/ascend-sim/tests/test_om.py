from __future__ import annotations

import dataclasses
import random
import struct
import sys
from pathlib import Path

import onnx
import pytest

import acl_sim as acl
from acl_sim import _om
from acl_sim._aipp import AippConfig
from acl_sim._compute import Program
from acl_sim._om import Bundle, Model, OmDataError, OmPathError
from tiny_models import add2, conv, convert, dense, pair

sys.path.insert(0, str(Path(__file__).parent.parent))
import fuzz_om


@pytest.fixture
def model():
    return fuzz_om.example()


def test_round_trip_of_every_kind(tmp_path, model):
    paths = [
        convert(tmp_path, add2(), name="a"),
        convert(tmp_path, dense(), "--input_shape=x:-1,6", "--dynamic_batch_size=1,2", name="b"),
        convert(tmp_path, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8,8;16,8", name="c"),
        convert(tmp_path, pair(), "--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,5,2;4,7,4", name="d"),
        convert(tmp_path, dense(), "--input_shape=x:1~8,6", name="e"),
    ]
    for content in [*map(_om.read, paths), model]:
        assert _om.parse(_om.dump(content)) == content
    bundle = Bundle(tuple(map(_om.read, paths)))
    assert _om.parse(_om.dump(bundle)) == bundle


def test_head(model):
    data = _om.dump(model)
    assert struct.unpack("<I", data[:4]) == (0x444F4D49,)
    assert data[4:20] == b"acl-sim not real"
    assert _om.dump(model) == data, "deterministic"


def test_paths_and_contents_have_the_vendors_codes(tmp_path, model):
    with pytest.raises(OmPathError) as caught:
        _om.read(tmp_path / "nope")
    assert caught.value.code == 145002
    with pytest.raises(OmPathError):
        _om.read(tmp_path)
    (tmp_path / "m.om").write_bytes(_om.dump(model)[:-1])
    with pytest.raises(OmDataError, match="lengths") as data:
        _om.read(tmp_path / "m.om")
    assert data.value.code == 145006


def test_a_vendors_file_is_told_apart():
    with pytest.raises(OmDataError, match="not one of the simulator"):
        _om.parse(_om.MAGIC + bytes(300))


def test_every_truncation_and_every_flipped_byte_is_noticed(model):
    data = _om.dump(model)
    for at in range(0, len(data), 7):
        with pytest.raises(OmDataError):
            _om.parse(data[:at])
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(OmDataError):
            _om.parse(bytes(damaged))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gears": ((1,), (1,))}, "twice"),
        ({"gears": ((1,), (4, 4))}, "wrong number of values"),
        ({"gears": ()}, "disagree"),
        ({"gears": ((1,), (1 << 31,))}, "out of range"),
        ({"shape_order": (0, 0)}, "shape order"),
        ({"precision_mode": "fp8"}, "precision mode"),
        ({"aipp": (None,)}, "AIPP"),
        ({"aipp": (None, AippConfig())}, "AIPP needs an input"),
        ({"aipp": (None, AippConfig(aipp_mode="dynamic", max_src_image_size=9))}, "AIPP needs an input"),
        ({"outputs": ()}, "no output"),
        ({"weight_bytes": -1}, "sizes"),
        ({"flops": (1,)}, "operations"),
        ({"output_shapes": (((1, 2),),)}, "per gear"),
        ({"output_shapes": (((1, 2),), ((1 << 31, 2),))}, "out of range"),
        ({"output_shapes": (((1, 2),), ((1 << 30, 1 << 30),))}, "beyond the limit"),
        ({"ranges": (((0, 1),), ())}, "ranges"),
    ],
)
def test_what_a_header_may_not_claim(model, changes, text):
    with pytest.raises(OmDataError, match=text):
        dataclasses.replace(model, **changes)


def resealed(model, graph):
    return _om.parse(_om.dump(dataclasses.replace(model, graph=graph.SerializeToString())))


def test_a_graph_may_not_name_other_files(model, tmp_path):
    graph = onnx.load_model_from_string(model.graph)
    (tmp_path / "secret").write_bytes(bytes(24))
    onnx.external_data_helper.set_external_data(graph.graph.initializer[0], str(tmp_path / "secret"))
    graph.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(OmDataError, match="other files"):
        Program(resealed(model, graph))


def test_a_graph_must_be_the_one_that_the_header_describes(model):
    graph = onnx.load_model_from_string(model.graph)
    graph.graph.input[0].name = "other"
    graph.graph.node[0].input[0] = "other"
    with pytest.raises(OmDataError, match="inputs"):
        Program(resealed(model, graph))
    graph = onnx.load_model_from_string(model.graph)
    graph.graph.output[0].type.tensor_type.elem_type = 10
    with pytest.raises(OmDataError, match="outputs"):
        Program(resealed(model, graph))


def test_a_file_that_claims_other_shapes_than_its_graph_has(tmp_path):
    model = _om.read(convert(tmp_path, add2()))
    assert isinstance(model, Model)
    _om.write(tmp_path / "lie.om", dataclasses.replace(model, output_shapes=(((2, 2),),)))
    acl.init()
    acl.rt.set_device(0)
    number, _ = acl.mdl.load_from_file(str(tmp_path / "lie.om"))
    datasets = []
    for size in ((24, 24), (16,)):
        dataset = acl.mdl.create_dataset()
        for count in size:
            acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(acl.rt.malloc(count, 0)[0], count))
        datasets.append(dataset)
    assert acl.mdl.execute(number, *datasets) == 507011


def test_mutations_never_crash(model):
    data = _om.dump(model)
    answers = {fuzz_om.attempt(fuzz_om.mutate(data, random.Random(seed)), run=True) for seed in range(400)}
    assert {"145006", "ran"} <= answers <= {"145006", "145002", "507011", "ran"}
