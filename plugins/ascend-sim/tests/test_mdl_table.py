"""A row for each rule of contracts/pyacl.md 1.3, 1.4 and 2: the call, and what it answers, to the code and shape.

The order of the checks in the gears' functions (3.3) and in execute (3.5) is in test_contract_rules.py, what they do in
test_mdl.py, AIPP in test_aipp.py.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from onnx import helper

import acl_sim as acl
from acl_sim import _om, testing
from acl_sim._machine import ENTRIES
from acl_sim.testing import Fault, Violation
from tiny_models import F32, add2, build, conv, convert, dense, pair

mdl, rt = acl.mdl, acl.rt
STALE = 0x2000_0000_0000 + 64 * 10_000
GEAR = "ascend_mbatch_shape_data"
LONG = "x" * 128
SIZE_MAX = (1 << 64) - 1

# Name -> letters, for every function of 1.3 and 1.4 but those of AIPP.
SURFACE = {
    "load_from_file": "s", "load_from_mem": "kk", "load_from_file_with_mem": "skkkk", "load_from_mem_with_mem": "kkkkkk",
    "create_config_handle": "", "set_config_opt": "kiO", "load_with_config": "k", "destroy_config_handle": "k",
    "query_size": "s", "query_size_from_mem": "kk", "unload": "I",
    "create_desc": "", "get_desc": "kI", "get_desc_from_file": "ks", "get_desc_from_mem": "kkk", "destroy_desc": "k",
    "get_num_inputs": "k", "get_num_outputs": "k", "get_input_size_by_index": "kk", "get_output_size_by_index": "kk",
    "get_input_dims": "kk", "get_output_dims": "kk", "get_input_dims_v2": "kk", "get_cur_output_dims": "kk",
    "get_input_dims_range": "kk", "get_input_name_by_index": "kk", "get_output_name_by_index": "kk",
    "get_input_index_by_name": "ks", "get_output_index_by_name": "ks", "get_tensor_real_name": "ks",
    "get_input_data_type": "kk", "get_output_data_type": "kk", "get_input_format": "kk", "get_output_format": "kk",
    "get_op_attr": "kss", "get_dynamic_batch": "k", "get_dynamic_hw": "kk", "get_input_dynamic_gear_count": "kk",
    "get_input_dynamic_dims": "kkk",
    "create_dataset": "", "add_dataset_buffer": "kk", "get_dataset_num_buffers": "k", "get_dataset_buffer": "kk",
    "destroy_dataset": "k", "set_dataset_tensor_desc": "kkk", "get_dataset_tensor_desc": "kk",
    "set_dynamic_batch_size": "IkkK", "set_dynamic_hw_size": "IkkKK", "set_input_dynamic_dims": "IkkO",
    "execute": "Ikk", "execute_async": "Ikkk", "execute_v2": "Ikkkk",
    "create_exec_config_handle": "", "set_exec_config_opt": "kkI", "destroy_exec_config_handle": "k",
    "bundle_load_from_file": "s", "bundle_load_from_mem": "kk", "bundle_get_model_num": "I", "bundle_get_model_id": "Ik",
    "bundle_unload": "I",
}  # fmt: skip


def test_the_surface_is_whole():
    mine = {name.removeprefix("acl.mdl."): entry for name, entry in ENTRIES.items() if name.startswith("acl.mdl.")}
    assert {name: entry.letters for name, entry in mine.items() if "aipp" not in name} == SURFACE
    assert all(entry.holds_gil for entry in mine.values()), "1.0.9 names no function of acl.mdl that releases it"
    assert set(mine) == set(dir(mdl))


@pytest.fixture(scope="session")
def table_files(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("table")
    nodes = [helper.make_node("Neg", [LONG], ["y"], name="n" * 127)]
    named = build(nodes, [(LONG, F32, [2])], [("y", F32, [2])])
    files = {
        "static": convert(tmp, add2(), name="static"),
        "batch": convert(tmp, dense(), "--input_shape=x:-1,6", "--dynamic_batch_size=4,1,8", name="batch"),
        "image": convert(tmp, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=16,8;8,8", name="image"),
        "dims": convert(tmp, pair(), "--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,5,2;4,7,4", name="dims"),
        "range": convert(tmp, dense(), "--input_shape=x:1~8,6", name="range"),
        "open": convert(tmp, dense(), "--input_shape=x:-1,6", name="open"),
        "named": convert(tmp, named, name="named"),
    }
    files["bundle"] = tmp / "bundle.om"
    _om.write(files["bundle"], _om.Bundle((_om.read(files["static"]), _om.read(files["batch"]))))
    files["bad"] = tmp / "bad.om"
    files["bad"].write_bytes(files["static"].read_bytes()[:-1])
    return files


class World:
    """What rows refer to by name; every model, its desc and its id are made when asked for."""

    def __init__(self, files):
        self._files = files
        self.buffer = acl.create_data_buffer(rt.malloc(64, 0)[0], 64)
        self.dataset = mdl.create_dataset()
        mdl.add_dataset_buffer(self.dataset, self.buffer)
        self.empty_desc = mdl.create_desc()
        self.tensor_desc = acl.create_tensor_desc(0, [3, 6], 2)
        self.config = mdl.create_config_handle()

    def path(self, name):
        return str(self._files[name])

    def memory(self, name):
        data = self._files[name].read_bytes()
        address = rt.malloc_host(len(data))[0]
        ctypes.memmove(address, data, len(data))
        return address, len(data)

    def fields(self, name):
        return dict(zip(("address", "size"), self.memory(name), strict=True))

    def load(self, name):
        model, ret = mdl.load_from_file(self.path(name))
        assert ret == 0
        return model

    def desc(self, name):
        desc = mdl.create_desc()
        assert mdl.get_desc(desc, self.load(name)) == 0
        return desc

    def bundle(self):
        bundle, ret = mdl.bundle_load_from_file(self.path("bundle"))
        assert ret == 0
        return bundle

    def device_block(self, size):
        return rt.malloc(size, 0)[0]

    def configured(self, **options):
        numbers = {"kind": 1, "path": 2, "address": 3, "size": 4, "weight": 5, "weight_size": 6, "work": 7, "work_size": 8}
        for name, value in options.items():
            assert mdl.set_config_opt(self.config, numbers[name], value) == 0
        return self.config


@pytest.fixture
def world(fresh_machine, table_files):
    assert acl.init() == 0
    assert rt.set_device(0) == 0
    return World(table_files)


def with_mem(w, work=0, work_size=0, weight=0, weight_size=0):
    return mdl.load_from_file_with_mem(w.path("batch"), work, work_size, weight, weight_size)


def sizes(w):
    return mdl.query_size(w.path("batch"))


LOADING = [
    (lambda w: mdl.load_from_file(w.path("static")), (1, 0)),
    (lambda w: mdl.load_from_file(w.path("static") + ".no"), (0, 145002)),
    (lambda w: mdl.load_from_file(""), (0, 145002)),
    (lambda w: mdl.load_from_file(w.path("bad")), (0, 145006)),
    (lambda w: mdl.load_from_file(w.path("bundle")), (0, 145006)),
    (lambda w: mdl.load_from_mem(*w.memory("static")), (1, 0)),
    (lambda w: mdl.load_from_mem(0, 100), (0, 100000)),
    (lambda w: mdl.load_from_mem(w.memory("static")[0], 0), (0, 100000)),
    (lambda w: mdl.load_from_mem(*w.memory("bad")), (0, 145006)),
    (lambda w: with_mem(w), (1, 0)),
    (lambda w: with_mem(w, 0, 1, 0, 1), (1, 0)),  # address 0: its size is ignored
    (lambda w: with_mem(w, w.device_block(sizes(w)[0]), sizes(w)[0]), (1, 0)),
    (lambda w: with_mem(w, w.device_block(sizes(w)[0]), sizes(w)[0] - 1), (0, 145000)),
    (lambda w: with_mem(w, weight=w.device_block(sizes(w)[1]), weight_size=sizes(w)[1]), (1, 0)),
    (lambda w: with_mem(w, weight=w.device_block(sizes(w)[1]), weight_size=sizes(w)[1] - 1), (0, 145000)),
    (lambda w: mdl.load_from_file_with_mem(w.path("bad"), 0, 0, 0, 0), (0, 145006)),
    (lambda w: mdl.load_from_mem_with_mem(*w.memory("static"), 0, 0, 0, 0), (1, 0)),
    (lambda w: mdl.load_from_mem_with_mem(0, 9, 0, 0, 0, 0), (0, 100000)),
    (lambda w: mdl.load_from_mem_with_mem(*w.memory("batch"), w.device_block(4), 4, 0, 0), (0, 145000)),
    (lambda w: mdl.load_from_mem_with_mem(*w.memory("batch"), 0, 0, w.device_block(4), 4), (0, 145000)),
    (lambda w: mdl.load_with_config(0), (0, 100000)),
    (lambda w: mdl.load_with_config(w.config), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=1)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=2)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=3, address=64)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=4, size=64)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=0, path=w.path("static"))), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=7, path=w.path("static"))), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=1, path=w.path("static"))), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=1, path=w.path("static"), work=64, work_size=1)), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=2, path=w.path("static"))), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=2, path=w.path("batch"), work=64, work_size=1)), (0, 145000)),
    (lambda w: mdl.load_with_config(w.configured(kind=2, path=w.path("batch"), weight=64, weight_size=1)), (0, 145000)),
    (lambda w: mdl.load_with_config(w.configured(kind=3, address=0, size=64)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=4, address=64, size=0)), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=0, **w.fields("static"))), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=7, **w.fields("static"))), (0, 100000)),
    (lambda w: mdl.load_with_config(w.configured(kind=3, **w.fields("static"))), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=4, **w.fields("static"))), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=3, **w.fields("batch"), work=64, work_size=1)), (1, 0)),
    (lambda w: mdl.load_with_config(w.configured(kind=4, **w.fields("batch"), work=64, work_size=1)), (0, 145000)),
    (
        lambda w: mdl.load_with_config(
            w.configured(kind=2, path=w.path("batch"), weight=w.device_block(sizes(w)[1]), weight_size=sizes(w)[1])
        ),
        (1, 0),
    ),
    (lambda w: mdl.set_config_opt(0, 1, 1), 100000),
    (lambda w: mdl.set_config_opt(w.config, 0, np.int32(1)), 0),  # letter i
    (lambda w: mdl.set_config_opt(w.config, 14, 1), 0),
    (lambda w: mdl.set_config_opt(w.config, 15, 1), 100000),
    (lambda w: mdl.set_config_opt(w.config, -1, 1), 100000),
    (lambda w: mdl.destroy_config_handle(w.config), 0),
    (lambda w: mdl.destroy_config_handle(0), 100000),
    (lambda w: mdl.query_size(w.path("bad")), (0, 0, 145006)),
    (lambda w: mdl.query_size(w.path("range")), (0, 0, 500002)),
    (lambda w: mdl.query_size(w.path("static"))[2:], (0,)),
    (lambda w: mdl.query_size_from_mem(*w.memory("batch")) == sizes(w), True),
    (lambda w: mdl.query_size_from_mem(0, 8), (0, 0, 100000)),
    (lambda w: mdl.query_size_from_mem(8, 0), (0, 0, 100000)),
    (lambda w: mdl.unload(w.load("static")), 0),
    (lambda w: mdl.unload(0), 145003),
    (lambda w: [mdl.unload(model) for model in [w.load("static")] * 2], [0, 145003]),
    (lambda w: mdl.unload(mdl.bundle_get_model_id(w.bundle(), 0)[0]), 100000),
    (lambda w: mdl.bundle_load_from_file(w.path("bundle")), (1, 0)),
    (lambda w: mdl.bundle_load_from_file(w.path("static")), (1, 0)),
    (lambda w: mdl.bundle_load_from_file(w.path("bad")), (0, 145006)),
    (lambda w: mdl.bundle_load_from_mem(*w.memory("bundle")), (1, 0)),
    (lambda w: mdl.bundle_load_from_mem(*w.memory("static")), (1, 0)),
    (lambda w: mdl.bundle_load_from_mem(0, 8), (0, 100000)),
    (lambda w: mdl.bundle_get_model_num(w.bundle()), (2, 0)),
    (lambda w: mdl.bundle_get_model_num(9), (0, 100000)),
    (lambda w: mdl.bundle_get_model_id(w.bundle(), 0), (1, 0)),
    (lambda w: mdl.bundle_get_model_id(w.bundle(), 1), (2, 0)),
    (lambda w: mdl.bundle_get_model_id(w.bundle(), 2), (0, 100000)),
    (lambda w: mdl.bundle_get_model_id(9, 0), (0, 100000)),
    (lambda w: mdl.bundle_unload(w.bundle()), 0),
    (lambda w: mdl.bundle_unload(9), 100000),
]

DESCRIBING = [
    (lambda w: mdl.get_desc(0, w.load("static")), 100000),
    (lambda w: mdl.get_desc(w.empty_desc, 77), 145003),
    (lambda w: mdl.get_desc(w.empty_desc, np.uint32(w.load("static"))), 0),
    (lambda w: mdl.get_desc_from_file(w.empty_desc, w.path("bundle")), 145006),
    (lambda w: mdl.get_desc_from_file(0, w.path("static")), 100000),
    (lambda w: mdl.get_desc_from_mem(0, *w.memory("static")), 100000),
    (lambda w: mdl.get_desc_from_mem(w.empty_desc, 0, 8), 100000),
    (lambda w: mdl.get_desc_from_mem(w.empty_desc, 8, 0), 100000),
    (lambda w: mdl.destroy_desc(w.empty_desc), 0),
    (lambda w: mdl.destroy_desc(0), 100000),
    (lambda w: mdl.get_num_inputs(w.desc("static")), 2),
    (lambda w: mdl.get_num_inputs(w.desc("range")), 1),
    (lambda w: mdl.get_num_inputs(w.desc("dims")), 3),  # the gear input counts
    (lambda w: mdl.get_num_outputs(w.desc("dims")), 2),
    (lambda w: mdl.get_num_inputs(0), 0),
    (lambda w: mdl.get_num_outputs(0), 0),
    (lambda w: mdl.get_input_size_by_index(w.desc("batch"), 0), 8 * 6 * 4),
    (lambda w: mdl.get_input_size_by_index(w.desc("batch"), 1), 4),
    (lambda w: mdl.get_input_size_by_index(w.desc("image"), 1), 8),
    (lambda w: mdl.get_input_size_by_index(w.desc("dims"), 2), 12),
    (lambda w: mdl.get_input_size_by_index(w.desc("batch"), 2), 0),
    (lambda w: mdl.get_input_size_by_index(w.desc("range"), 0), 8 * 6 * 4),
    (lambda w: mdl.get_input_size_by_index(w.desc("open"), 0), 0),
    (lambda w: mdl.get_input_size_by_index(0, 0), 0),
    (lambda w: mdl.get_output_size_by_index(w.desc("batch"), 0), 8 * 4 * 4),
    (lambda w: mdl.get_output_size_by_index(w.desc("image"), 0), 2 * 16 * 8 * 4),
    (lambda w: mdl.get_output_size_by_index(w.desc("batch"), 1), 0),
    (lambda w: mdl.get_output_size_by_index(w.desc("open"), 0), 0),
    (lambda w: mdl.get_input_dims(w.desc("batch"), 0), ({"name": "x", "dimCount": 2, "dims": [-1, 6]}, 0)),
    (lambda w: mdl.get_input_dims(w.desc("image"), 0), ({"name": "img", "dimCount": 4, "dims": [1, 3, -1, -1]}, 0)),
    (lambda w: mdl.get_input_dims(w.desc("dims"), 1), ({"name": "m", "dimCount": 2, "dims": [-1, -1]}, 0)),
    (lambda w: mdl.get_input_dims(w.desc("dims"), 2), ({"name": GEAR, "dimCount": 1, "dims": [3]}, 0)),
    (lambda w: mdl.get_input_dims(w.desc("range"), 0), ({"name": "x", "dimCount": 2, "dims": [-1, 6]}, 0)),
    (lambda w: mdl.get_input_dims(w.desc("static"), 2), ({}, 100000)),
    (lambda w: mdl.get_input_dims(w.empty_desc, 0), ({}, 100000)),
    (lambda w: mdl.get_input_dims(0, 0), ({}, 100000)),
    (lambda w: mdl.get_input_dims_v2(w.desc("static"), 1), ({"name": "b", "dimCount": 2, "dims": [2, 3]}, 0)),
    (lambda w: mdl.get_input_dims_v2(w.desc("batch"), 1), ({"name": GEAR, "dimCount": 1, "dims": [1]}, 0)),
    (lambda w: mdl.get_input_dims_v2(w.desc("static"), 2), ({}, 100000)),
    (lambda w: mdl.get_output_dims(w.desc("static"), 0), ({"name": "add:0:c", "dimCount": 2, "dims": [2, 3]}, 0)),
    (lambda w: mdl.get_output_dims(w.desc("batch"), 0), ({"name": "add:0:y", "dimCount": 2, "dims": [8, 4]}, 0)),
    (lambda w: mdl.get_output_dims(w.desc("image"), 0)[0]["dims"], [1, 2, 16, 8]),
    (lambda w: mdl.get_output_dims(w.desc("image"), 1)[0]["dims"], [1, 2, 1, 1]),
    (lambda w: mdl.get_output_dims(w.desc("dims"), 1)[0]["dims"], [4]),
    (lambda w: mdl.get_output_dims(w.desc("range"), 0)[0]["dims"], [-1, 4]),
    (lambda w: mdl.get_output_dims(w.desc("static"), 1), ({}, 100000)),
    (lambda w: mdl.get_cur_output_dims(w.desc("static"), 0), ({"name": "add:0:c", "dimCount": 2, "dims": [2, 3]}, 0)),
    (lambda w: mdl.get_cur_output_dims(w.desc("batch"), 0)[0]["dims"], [8, 4]),
    (lambda w: mdl.get_cur_output_dims(w.desc("range"), 0), ({}, 200001)),
    (lambda w: mdl.get_cur_output_dims(w.desc("static"), 1), ({}, 100000)),
    (lambda w: mdl.get_input_dims_range(w.desc("range"), 0), ({"rangeCount": 2, "range": [[1, 8], [6, 6]]}, 0)),
    (lambda w: mdl.get_input_dims_range(w.desc("static"), 0), ({"rangeCount": 0, "range": []}, 0)),
    (lambda w: mdl.get_input_dims_range(w.desc("range"), 1), ({}, 100000)),
    (lambda w: mdl.get_input_name_by_index(w.desc("dims"), 2), GEAR),
    (lambda w: mdl.get_input_name_by_index(w.desc("dims"), 3), ""),
    (lambda w: mdl.get_input_name_by_index(0, 0), ""),
    (lambda w: mdl.get_output_name_by_index(w.desc("dims"), 1), "total:0:z"),
    (lambda w: mdl.get_output_name_by_index(w.desc("dims"), 2), ""),
    (lambda w: mdl.get_input_index_by_name(w.desc("dims"), "m"), (1, 0)),
    (lambda w: mdl.get_input_index_by_name(w.desc("static"), GEAR), (0, 100000)),
    (lambda w: mdl.get_input_index_by_name(w.desc("range"), GEAR), (0, 100000)),
    (lambda w: mdl.get_input_index_by_name(0, "m"), (0, 100000)),
    (lambda w: mdl.get_output_index_by_name(w.desc("dims"), "total:0:z"), (1, 0)),
    (lambda w: mdl.get_output_index_by_name(w.desc("dims"), "m"), (0, 100000)),  # an input
    (lambda w: mdl.get_input_data_type(w.desc("dims"), 1), 3),
    (lambda w: mdl.get_input_data_type(w.desc("image"), 1), 3),  # INT32: mmdeploy knows no other
    (lambda w: mdl.get_input_data_type(w.desc("dims"), 3), -1),
    (lambda w: mdl.get_output_data_type(w.desc("dims"), 1), 3),
    (lambda w: mdl.get_output_data_type(w.desc("dims"), 2), -1),
    (lambda w: mdl.get_output_data_type(0, 0), -1),
    (lambda w: mdl.get_input_format(w.desc("image"), 0), 0),
    (lambda w: mdl.get_input_format(w.desc("image"), 1), 2),
    (lambda w: mdl.get_input_format(w.desc("image"), 2), -1),
    (lambda w: mdl.get_output_format(w.desc("image"), 0), 0),
    (lambda w: mdl.get_output_format(w.desc("image"), 2), -1),
    (lambda w: mdl.get_op_attr(w.desc("static"), "add", "_datadump_original_op_names"), ""),
    (lambda w: mdl.get_op_attr(w.desc("static"), "add", "other"), None),
    (lambda w: mdl.get_op_attr(w.empty_desc, "add", "_datadump_original_op_names"), None),
    (lambda w: mdl.get_dynamic_batch(w.desc("batch")), ({"batchCount": 3, "batch": [4, 1, 8]}, 0)),  # not sorted
    (lambda w: mdl.get_dynamic_batch(w.desc("static")), ({"batchCount": 0, "batch": []}, 0)),
    (lambda w: mdl.get_dynamic_batch(w.desc("image")), ({"batchCount": 0, "batch": []}, 0)),
    (lambda w: mdl.get_dynamic_batch(w.empty_desc), ({}, 100000)),
    (lambda w: mdl.get_dynamic_batch(0), ({}, 100000)),
    (lambda w: mdl.get_dynamic_hw(w.desc("image"), -1), ({"hwCount": 2, "hw": [[16, 8], [8, 8]]}, 0)),
    (lambda w: mdl.get_dynamic_hw(w.desc("image"), 7), ({"hwCount": 2, "hw": [[16, 8], [8, 8]]}, 0)),
    (lambda w: mdl.get_dynamic_hw(w.desc("batch"), -1), ({"hwCount": 0, "hw": []}, 0)),
    (lambda w: mdl.get_dynamic_hw(0, -1), ({}, 100000)),
    (lambda w: mdl.get_input_dynamic_gear_count(w.desc("dims"), -1), (2, 0)),
    (lambda w: mdl.get_input_dynamic_gear_count(w.desc("dims"), SIZE_MAX), (2, 0)),
    (lambda w: mdl.get_input_dynamic_gear_count(w.desc("dims"), 2), (0, 100000)),
    (lambda w: mdl.get_input_dynamic_gear_count(w.desc("batch"), -1), (0, 0)),
    (lambda w: mdl.get_input_dynamic_gear_count(0, -1), (0, 100000)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), -1, 3),
     ([{"name": "", "dimCount": 4, "dims": [2, 5, 2, 3]}, {"name": "", "dimCount": 4, "dims": [4, 7, 4, 3]}, {}], 0)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), -1, 2)[1], 0),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), -1, 1), ([None], 100000)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), 2, 2), ([None, None], 100000)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), -1, 4096)[1], 0),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("dims"), -1, 4097), (None, 100000)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("batch"), -1, 1), ([{}], 0)),
    (lambda w: mdl.get_input_dynamic_dims(w.desc("static"), -1, 0), ([], 0)),
    (lambda w: mdl.get_tensor_real_name(w.desc("named"), "acl_modelId_1_input_0"), LONG),
    (lambda w: mdl.get_tensor_real_name(w.desc("named"), LONG), LONG),
    (lambda w: mdl.get_tensor_real_name(w.desc("static"), "b"), "b"),
    (lambda w: mdl.get_tensor_real_name(w.desc("static"), "nope"), None),
    (lambda w: mdl.get_tensor_real_name(0, "b"), None),
    (lambda w: mdl.get_input_index_by_name(w.desc("named"), LONG), (0, 0)),
]  # fmt: skip

DATASETS = [
    (lambda w: mdl.add_dataset_buffer(w.dataset, w.buffer) == (w.dataset, 0), True),
    (lambda w: mdl.add_dataset_buffer(w.dataset, 0) == (w.dataset, 100000), True),
    (lambda w: mdl.add_dataset_buffer(0, w.buffer), (0, 100000)),
    (lambda w: mdl.get_dataset_num_buffers(w.dataset), 1),
    (lambda w: mdl.get_dataset_num_buffers(0), 0),
    (lambda w: mdl.get_dataset_buffer(w.dataset, 0) == w.buffer, True),
    (lambda w: mdl.get_dataset_buffer(w.dataset, 1), 0),
    (lambda w: mdl.get_dataset_buffer(0, 0), 0),
    (lambda w: mdl.destroy_dataset(w.dataset), 0),
    (lambda w: mdl.destroy_dataset(0), 100000),
    (lambda w: mdl.set_dataset_tensor_desc(w.dataset, w.tensor_desc, 0) == (w.dataset, 0), True),
    (lambda w: mdl.set_dataset_tensor_desc(w.dataset, w.tensor_desc, 1) == (w.dataset, 100000), True),
    (lambda w: mdl.set_dataset_tensor_desc(w.dataset, 0, 0) == (w.dataset, 100000), True),
    (lambda w: mdl.set_dataset_tensor_desc(0, w.tensor_desc, 0), (0, 100000)),
    (lambda w: mdl.get_dataset_tensor_desc(w.dataset, 0), 0),
    (lambda w: mdl.get_dataset_tensor_desc(0, 0), 0),
    (lambda w: mdl.set_exec_config_opt(mdl.create_exec_config_handle(), 0, np.uint32(1)), 0),
    (lambda w: mdl.set_exec_config_opt(0, 0, 1), 100000),
    (lambda w: mdl.destroy_exec_config_handle(mdl.create_exec_config_handle()), 0),
    (lambda w: mdl.destroy_exec_config_handle(0), 100000),
]

ROWS = [*LOADING, *DESCRIBING, *DATASETS]

# Handles that are not what they should be: undefined on hardware.
MISUSE = [
    (lambda w: mdl.get_desc(STALE, 1), "unknown handle"),
    (lambda w: mdl.get_num_inputs(w.dataset), "wrong handle"),
    (lambda w: [mdl.destroy_desc(desc) for desc in [w.empty_desc] * 2], "stale handle"),
    (lambda w: [mdl.destroy_dataset(dataset) for dataset in [w.dataset] * 2], "stale handle"),
    (lambda w: mdl.add_dataset_buffer(w.buffer, w.dataset), "wrong handle"),
    (lambda w: mdl.add_dataset_buffer(w.dataset, w.dataset), "wrong handle"),
    (lambda w: mdl.add_dataset_buffer(w.empty_desc, w.buffer), "wrong handle"),
    (lambda w: mdl.set_dataset_tensor_desc(w.dataset, w.buffer, 0), "wrong handle"),
    (lambda w: mdl.set_config_opt(STALE, 1, 1), "unknown handle"),
    (lambda w: mdl.load_with_config(w.dataset), "wrong handle"),
    (lambda w: mdl.set_exec_config_opt(w.config, 0, 1), "wrong handle"),
    (lambda w: mdl.load_from_mem(w.device_block(64), 64), "device pointer"),
    (lambda w: with_mem(w, w.device_block(8), 1 << 20), "out of bounds"),
    (lambda w: with_mem(w, rt.malloc_host(1 << 12)[0], 1 << 12), "host pointer"),
]


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_rows(row, world):
    call, expected = ROWS[row]
    result = call(world)
    assert result == expected
    assert type(result) is type(expected)
    assert testing.ledger().violations == []


@pytest.mark.parametrize("row", range(len(MISUSE)))
def test_misuse_is_named(row, world):
    call, rule = MISUSE[row]
    with pytest.raises(Violation, match=rule):
        call(world)
    assert [violation.rule for violation in testing.ledger().violations] == [rule]


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_a_fault_comes_in_the_functions_own_shape(name):
    entry = ENTRIES[f"acl.mdl.{name}"]
    testing.reset(faults=(Fault(entry.name, 1, 500000),))
    values = {"O": 1, "s": "x"}
    result = getattr(mdl, name)(*[values.get(letter, 1) for letter in entry.letters])
    shapes = {
        "pair": (0, 500000), "triple": (0, 0, 500000), "dict": ({}, 500000), "ret": 500000, "handle": 0, "name": "",
        "minus": -1, "none": None, "list": (None, 500000),
    }  # fmt: skip
    assert result == shapes[FAILURES.get(name, "ret")]
    assert acl.get_recent_err_msg() == f"EH0001: fault injected into acl.mdl.{name} (error code 500000)"


FAILURES = {
    **dict.fromkeys((
        "load_from_file", "load_from_mem", "load_from_file_with_mem", "load_from_mem_with_mem", "load_with_config",
        "bundle_load_from_file", "bundle_load_from_mem", "bundle_get_model_num", "bundle_get_model_id",
        "get_input_index_by_name", "get_output_index_by_name", "get_input_dynamic_gear_count", "add_dataset_buffer",
        "set_dataset_tensor_desc",
    ), "pair"),
    **dict.fromkeys(("query_size", "query_size_from_mem"), "triple"),
    **dict.fromkeys((
        "get_input_dims", "get_input_dims_v2", "get_output_dims", "get_cur_output_dims", "get_input_dims_range",
        "get_dynamic_batch", "get_dynamic_hw",
    ), "dict"),
    **dict.fromkeys((
        "create_config_handle", "create_desc", "create_dataset", "create_exec_config_handle", "get_num_inputs",
        "get_num_outputs", "get_input_size_by_index", "get_output_size_by_index", "get_dataset_num_buffers",
        "get_dataset_buffer", "get_dataset_tensor_desc",
    ), "handle"),
    **dict.fromkeys(("get_input_name_by_index", "get_output_name_by_index"), "name"),
    **dict.fromkeys(("get_input_data_type", "get_output_data_type", "get_input_format", "get_output_format"), "minus"),
    **dict.fromkeys(("get_tensor_real_name", "get_op_attr"), "none"),
    "get_input_dynamic_dims": "list",
}  # fmt: skip


LOADS = [
    lambda w: mdl.load_from_file(w.path("static")),
    lambda w: mdl.load_from_mem(*w.memory("static")),
    lambda w: mdl.load_from_file_with_mem(w.path("static"), 0, 0, 0, 0),
    lambda w: mdl.load_from_mem_with_mem(*w.memory("static"), 0, 0, 0, 0),
    lambda w: mdl.load_with_config(w.configured(kind=1, path=w.path("static"))),
    lambda w: mdl.bundle_load_from_file(w.path("bundle")),
    lambda w: mdl.bundle_load_from_mem(*w.memory("bundle")),
]


@pytest.mark.parametrize("load", LOADS)
def test_every_load_needs_init_then_a_context(load, fresh_machine, table_files):
    rt.set_device(0)
    world = World(table_files)
    assert load(world) == (0, 145001)
    assert acl.init() == 0
    memory = {name: world.memory(name) for name in ("static", "bundle")}
    world.memory = memory.__getitem__
    rt.reset_device(0)
    assert load(world) == (0, 107002)
    rt.set_device(0)
    assert load(world)[1] == 0


@pytest.mark.parametrize(("attribute", "letter"), [
    (0, "i"), (1, "K"), (2, "s"), (3, "k"), (4, "K"), (5, "k"), (6, "K"), (7, "k"), (8, "K"), (13, "K"), (14, "k"),
])  # fmt: skip
def test_the_letter_of_an_option_follows_its_attribute(attribute, letter, world):
    accepted = {"i": [1, np.int32(1)], "k": [1, -1], "K": [1, -1], "s": ["path"]}[letter]
    rejected = {"i": [1 << 31, 1.5, None], "k": [np.int64(1), None, "x"], "K": [np.int64(1), "x"], "s": [1, None, b"x"]}[letter]
    for value in accepted:
        assert mdl.set_config_opt(world.config, attribute, value) == 0
    for value in rejected:
        with pytest.raises(TypeError, match=r"^acl\.mdl\.set_config_opt args parse failed!$"):
            mdl.set_config_opt(world.config, attribute, value)


@pytest.mark.parametrize("kind", [5, 6])
def test_loading_with_queues_says_that_it_is_not_simulated(world, kind):
    with pytest.raises(NotImplementedError, match="queues"):
        mdl.load_with_config(world.configured(kind=kind))


def test_user_memory_is_where_the_model_lives(world):
    work, weight, _ = sizes(world)
    assert 0 not in (work, weight)

    def used(*arguments):
        before = rt.get_mem_info(0)[0]
        model, ret = with_mem(world, *arguments)
        assert ret == 0
        taken = before - rt.get_mem_info(0)[0]
        assert mdl.unload(model) == 0
        assert rt.get_mem_info(0)[0] == before
        return taken

    work_block, weight_block = world.device_block(work), world.device_block(weight)
    assert used() == work + weight
    assert used(work_block, work) == weight
    assert used(0, 0, weight_block, weight) == work
    assert used(work_block, work, weight_block, weight) == 0
    world.configured(path=world.path("batch"), work=work_block, work_size=work, weight=weight_block, weight_size=weight)
    for kind, taken in ((1, work + weight), (2, 0)):  # only type 2 looks at the user's memory
        before = rt.get_mem_info(0)[0]
        assert mdl.load_with_config(world.configured(kind=kind))[1] == 0
        assert before - rt.get_mem_info(0)[0] == taken


def test_a_model_fits_to_the_last_byte(table_files):
    needed = sum(_om.read(table_files["batch"]).__getattribute__(name) for name in ("work_bytes", "weight_bytes"))
    for spare, code in ((0, 0), (-1, 207001)):
        testing.reset(memory_bytes=needed + spare)
        acl.init()
        rt.set_device(0)
        assert mdl.load_from_file(str(table_files["batch"]))[1] == code


def test_a_bundle_ends_with_its_models(world):
    first, second = world.bundle(), world.bundle()
    assert (first, second) == (1, 2)
    inner = [mdl.bundle_get_model_id(second, index)[0] for index in (0, 1)]
    assert inner == [3, 4]
    assert mdl.bundle_unload(second) == 0
    assert [mdl.get_desc(world.empty_desc, model) for model in (1, 2, 3, 4)] == [0, 0, 145003, 145003]
    assert mdl.bundle_get_model_num(second) == (0, 100000)
    assert mdl.bundle_get_model_num(first) == (2, 0)
    assert world.load("static") == 5


def test_a_desc_outlives_its_model_but_the_current_gear_does_not(world):
    desc = world.desc("batch")
    assert mdl.unload(1) == 0
    assert mdl.get_output_dims(desc, 0)[0]["dims"] == [8, 4]
    assert mdl.get_cur_output_dims(desc, 0) == ({}, 145003)


def test_long_names_get_a_suffix_where_the_short_one_is_taken(tmp_path, world):
    taken = ["acl_modelId_1_input_1", "acl_modelId_1_input_1_0"]
    nodes = [helper.make_node("Sum", [taken[0], LONG, taken[1]], ["y"], name="sum")]
    path = convert(tmp_path, build(nodes, [(name, F32, [2]) for name in (taken[0], LONG, taken[1])], [("y", F32, [2])]))
    model, _ = mdl.load_from_file(str(path))
    desc = world.empty_desc
    assert mdl.get_desc(desc, model) == 0
    names = [mdl.get_input_name_by_index(desc, index) for index in range(3)]
    assert names == [taken[0], "acl_modelId_1_input_1_1", taken[1]]
    assert mdl.get_tensor_real_name(desc, names[1]) == LONG
    assert mdl.get_input_index_by_name(desc, names[1]) == (1, 0)
    assert mdl.get_input_index_by_name(desc, taken[0]) == (0, 0)


@pytest.mark.parametrize(("length", "shown"), [(127, "x" * 127), (128, "acl_modelId_1_input_0")])
def test_names_are_shown_up_to_127_characters(tmp_path, world, length, shown):
    name = "x" * length
    nodes = [helper.make_node("Neg", [name], ["y"], name="n")]
    path = convert(tmp_path, build(nodes, [(name, F32, [2])], [("y", F32, [2])]))
    mdl.load_from_file(str(path))
    mdl.get_desc(world.empty_desc, 1)
    for query in (mdl.get_input_dims, mdl.get_input_dims_v2):
        assert query(world.empty_desc, 0)[0]["name"] == shown
    assert mdl.get_input_name_by_index(world.empty_desc, 0) == shown


def test_gears_of_an_output_that_is_largest_elsewhere(tmp_path, world):
    """The largest gear is judged for each output alone: H x W and W x H swap places."""
    path = convert(tmp_path, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8,4;2,30", name="swap")
    mdl.load_from_file(str(path))
    mdl.get_desc(world.empty_desc, 1)
    assert mdl.get_output_dims(world.empty_desc, 0)[0]["dims"] == [1, 2, 2, 30]
    assert mdl.get_input_size_by_index(world.empty_desc, 0) == 3 * 60 * 4


def test_a_tensor_desc_of_a_dataset_is_a_copy_that_the_next_one_overwrites(world):
    assert mdl.set_dataset_tensor_desc(world.dataset, world.tensor_desc, 0)[1] == 0
    own = mdl.get_dataset_tensor_desc(world.dataset, 0)
    assert own not in (0, world.tensor_desc)
    other = acl.create_tensor_desc(3, [9], 0)
    acl.set_tensor_desc_name(other, "named")
    assert mdl.set_dataset_tensor_desc(world.dataset, other, 0)[1] == 0
    assert mdl.get_dataset_tensor_desc(world.dataset, 0) == own
    assert (acl.get_tensor_desc_num_dims(own), acl.get_tensor_desc_dim(own, 0)) == (1, 9)
    assert (acl.get_tensor_desc_type(own), acl.get_tensor_desc_format(own)) == (3, 0)
    leaks = {leak.handle for leak in testing.ledger().leaks}
    assert other in leaks
    assert own not in leaks, "the dataset's own: it goes with the dataset"
    assert mdl.destroy_dataset(world.dataset) == 0
    with pytest.raises(Violation, match="stale handle"):
        acl.get_tensor_desc_num_dims(own)


def test_a_dataset_gives_back_neither_buffers_nor_memory(world):
    address = acl.get_data_buffer_addr(world.buffer)
    assert mdl.destroy_dataset(world.dataset) == 0
    assert acl.get_data_buffer_size(world.buffer) == 64
    assert rt.free(address) == 0
    assert acl.destroy_data_buffer(world.buffer) == 0
