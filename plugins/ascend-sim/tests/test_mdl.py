"""contracts/pyacl.md 1.3, 1.4, 2, 3.3 to 3.6: codes, return shapes, and the classic flows."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from onnx import helper

import acl_sim as acl
from acl_sim import _om, testing
from acl_sim.testing import Violation
from tiny_models import F32, add2, build, conv, convert, dense, dense_reference, pair

H2D, D2H = 1, 2
GEAR = "ascend_mbatch_shape_data"
BATCH = ("--input_shape=x:-1,6", "--dynamic_batch_size=1,2,4,8")
IMAGE = ("--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8,8;16,8")
DIMS = ("--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,5,2;4,7,4")
TOO_BIG = (1 << 64) - 1


@pytest.fixture(autouse=True)
def device(fresh_machine):
    assert acl.init() == 0
    assert acl.rt.set_device(0) == 0


def restart(**config):
    here = testing.reset(**config)
    assert acl.init() == 0
    assert acl.rt.set_device(0) == 0
    return here


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("om")
    return {
        "static": convert(tmp, add2(), name="static"),
        "batch": convert(tmp, dense(), *BATCH, name="batch"),
        "image": convert(tmp, conv(), *IMAGE, name="image"),
        "dims": convert(tmp, pair(), *DIMS, name="dims"),
        "dims1": convert(tmp, dense(), "--input_shape=x:-1,6", "--dynamic_dims=1;2", name="dims1"),
        "dims2": convert(tmp, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_dims=8,8;16,8", name="dims2"),
        "range": convert(tmp, dense(), "--input_shape=x:1~8,6", name="range"),
        "open": convert(tmp, dense(), "--input_shape=x:-1,6", name="open"),
    }


class Client:
    """A client as people write them: load, describe, allocate for the largest gear, set, copy, execute, copy back."""

    def __init__(self, path):
        self.model, ret = acl.mdl.load_from_file(str(path))
        assert ret == 0, acl.get_recent_err_msg()
        self.desc = acl.mdl.create_desc()
        assert acl.mdl.get_desc(self.desc, self.model) == 0
        self.inputs, self.input_sizes = self._dataset(acl.mdl.get_num_inputs, acl.mdl.get_input_size_by_index)
        self.outputs, self.output_sizes = self._dataset(acl.mdl.get_num_outputs, acl.mdl.get_output_size_by_index)

    def _dataset(self, count, size_of):
        dataset, sizes = acl.mdl.create_dataset(), []
        for index in range(count(self.desc)):
            size = size_of(self.desc, index)
            address, ret = acl.rt.malloc(size, 0)
            assert ret == 0
            buffer = acl.create_data_buffer(address, size)
            assert acl.mdl.add_dataset_buffer(dataset, buffer) == (dataset, 0)
            sizes.append(size)
        return dataset, sizes

    def address(self, dataset, index):
        return acl.get_data_buffer_addr(acl.mdl.get_dataset_buffer(dataset, index))

    @property
    def gear_index(self):
        index, ret = acl.mdl.get_input_index_by_name(self.desc, GEAR)
        assert ret == 0
        return index

    def set_batch(self, batch):
        return acl.mdl.set_dynamic_batch_size(self.model, self.inputs, self.gear_index, batch)

    def set_hw(self, height, width):
        return acl.mdl.set_dynamic_hw_size(self.model, self.inputs, self.gear_index, height, width)

    def set_dims(self, dims):
        return acl.mdl.set_input_dynamic_dims(self.model, self.inputs, self.gear_index, dims)

    def put(self, *arrays):
        for index, array in enumerate(arrays):
            data = np.ascontiguousarray(array).tobytes()
            size = self.input_sizes[index]
            assert acl.rt.memcpy(self.address(self.inputs, index), size, acl.util.bytes_to_ptr(data), len(data), H2D) == 0

    def get_raw(self, index):
        size = self.output_sizes[index]
        host, _ = acl.rt.malloc_host(size)
        assert acl.rt.memcpy(host, size, self.address(self.outputs, index), size, D2H) == 0
        data = acl.util.ptr_to_bytes(host, size)
        acl.rt.free_host(host)
        return data

    def get(self, index, dtype=np.float32):
        dims, ret = acl.mdl.get_cur_output_dims(self.desc, index)
        assert ret == 0
        count = int(np.prod(dims["dims"]))
        return np.frombuffer(self.get_raw(index), dtype)[:count].reshape(dims["dims"])

    def execute(self):
        return acl.mdl.execute(self.model, self.inputs, self.outputs)

    def close(self):
        for dataset in (self.inputs, self.outputs):
            for index in range(acl.mdl.get_dataset_num_buffers(dataset)):
                buffer = acl.mdl.get_dataset_buffer(dataset, index)
                acl.rt.free(acl.get_data_buffer_addr(buffer))
                assert acl.destroy_data_buffer(buffer) == 0
            assert acl.mdl.destroy_dataset(dataset) == 0
        assert acl.mdl.destroy_desc(self.desc) == 0
        assert acl.mdl.unload(self.model) == 0


# The classic flows


def test_static_flow_leaves_nothing_behind(files):
    client = Client(files["static"])
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 0.5, np.float32)
    client.put(a, b)
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0), a + b)
    client.close()
    acl.rt.reset_device(0)
    acl.finalize()
    testing.assert_clean()
    assert testing.ledger().launches == {"static": {"static": 1}}


def test_batch_flow(files):
    client = Client(files["batch"])
    rng = np.random.default_rng(1)
    for batch in (1, 8, 2, 4):
        x = rng.standard_normal((batch, 6)).astype(np.float32)
        assert client.set_batch(batch) == 0
        client.put(x)
        assert client.execute() == 0
        y = client.get(0)
        assert y.shape == (batch, 4)
        np.testing.assert_allclose(y, dense_reference(x), rtol=1e-5, atol=1e-6)
    assert testing.ledger().launches == {"batch": {"1": 1, "2": 1, "4": 1, "8": 1}}
    client.close()


def test_a_smaller_gear_leaves_old_bytes_behind_its_rows(files):
    client = Client(files["batch"])
    client.put(np.ones((8, 6), np.float32))
    assert client.set_batch(8) == 0
    assert client.execute() == 0
    before = np.frombuffer(client.get_raw(0), np.float32).reshape(8, 4)
    client.put(np.zeros((2, 6), np.float32))
    assert client.set_batch(2) == 0
    assert client.execute() == 0
    after = np.frombuffer(client.get_raw(0), np.float32).reshape(8, 4)
    np.testing.assert_array_equal(after[2:], before[2:])
    assert not np.array_equal(after[:2], before[:2])


def test_rows_that_nobody_wrote_are_garbage_not_an_error(files):
    client = Client(files["batch"])
    assert client.set_batch(4) == 0
    client.put(np.ones((3, 6), np.float32))
    assert client.execute() == 0
    y = client.get(0)
    np.testing.assert_allclose(y[:3], dense_reference(np.ones((3, 6), np.float32)), rtol=1e-5)
    assert np.isnan(y[3]).all(), "poisoned memory"


def test_a_gear_stays_set(files):
    client = Client(files["batch"])
    assert client.set_batch(2) == 0
    client.put(np.ones((8, 6), np.float32))
    assert [client.execute(), client.execute()] == [0, 0]
    assert testing.ledger().launches == {"batch": {"2": 2}}


def test_image_flow(files):
    client = Client(files["image"])
    assert acl.mdl.get_dynamic_hw(client.desc, -1) == ({"hwCount": 2, "hw": [[8, 8], [16, 8]]}, 0)
    assert acl.mdl.get_dynamic_hw(client.desc, 5)[1] == 0, "the index is ignored"
    image = np.random.default_rng(2).standard_normal((1, 3, 16, 8)).astype(np.float32)
    client.put(image)
    assert client.set_hw(16, 8) == 0
    assert client.execute() == 0
    full = client.get(0)
    assert full.shape == (1, 2, 16, 8)
    assert client.set_hw(8, 16) == 145013, "height before width"
    assert client.set_hw(8, 8) == 0
    client.put(image[:, :, :8])
    assert client.execute() == 0
    assert client.get(0).shape == (1, 2, 8, 8)
    assert client.get(1).shape == (1, 2, 1, 1), "an output that no gear changes keeps its shape"
    np.testing.assert_allclose(client.get(0)[:, :, :7], full[:, :, :7], rtol=1e-5, atol=1e-5)


def test_dims_flow(files):
    client = Client(files["dims"])
    assert acl.mdl.get_input_dynamic_gear_count(client.desc, -1) == (2, 0)
    gears, ret = acl.mdl.get_input_dynamic_dims(client.desc, -1, 2)
    assert ret == 0
    assert gears == [
        {"name": "", "dimCount": 4, "dims": [2, 5, 2, 3]},
        {"name": "", "dimCount": 4, "dims": [4, 7, 4, 3]},
    ]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    m = np.arange(10, dtype=np.int32).reshape(2, 5)
    assert client.set_dims(gears[0]) == 0
    client.put(x, m)
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0), x * 2)
    np.testing.assert_array_equal(client.get(1, np.int32), m.sum(axis=1))
    assert client.set_dims({"dimCount": 4, "dims": [4, 7, 4, 3, 99]}) == 0, "what lies behind dimCount does not count"
    assert acl.mdl.get_cur_output_dims(client.desc, 0)[0]["dims"] == [4, 3]


def test_shape_range_flow(files):
    client = Client(files["range"])
    assert acl.mdl.get_cur_output_dims(client.desc, 0) == ({}, 200001)
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["dims"] == [-1, 6]
    assert acl.mdl.get_output_dims(client.desc, 0)[0]["dims"] == [-1, 4]
    assert client.input_sizes == [8 * 6 * 4]
    assert client.output_sizes == [8 * 4 * 4]
    x = np.ones((3, 6), np.float32)
    client.put(x)
    assert client.execute() == 145000, "no tensor desc"
    desc = acl.create_tensor_desc(0, [3, 6], 2)
    assert acl.mdl.set_dataset_tensor_desc(client.inputs, desc, 0) == (client.inputs, 0)
    assert acl.mdl.set_dataset_tensor_desc(client.inputs, desc, 1) == (client.inputs, 100000)
    acl.destroy_tensor_desc(desc)
    assert acl.get_tensor_desc_dim(acl.mdl.get_dataset_tensor_desc(client.inputs, 0), 0) == 3, "a copy"
    assert client.execute() == 0
    y = np.frombuffer(client.get_raw(0), np.float32)[:12].reshape(3, 4)
    np.testing.assert_allclose(y, dense_reference(x), rtol=1e-5)
    desc = acl.create_tensor_desc(0, [9, 6], 2)
    acl.mdl.set_dataset_tensor_desc(client.inputs, desc, 0)
    assert client.execute() == 145000, "outside the range"
    client.close()
    acl.destroy_tensor_desc(desc)
    testing.assert_clean()


def test_open_shape_range_has_size_0(files):
    model, _ = acl.mdl.load_from_file(str(files["open"]))
    desc = acl.mdl.create_desc()
    acl.mdl.get_desc(desc, model)
    assert acl.mdl.get_input_size_by_index(desc, 0) == 0
    assert acl.mdl.get_output_size_by_index(desc, 0) == 0
    assert acl.mdl.get_input_dims_range(desc, 0) == ({"rangeCount": 2, "range": [[0, -1], [6, 6]]}, 0)
    assert acl.mdl.query_size(str(files["open"]))[2] == 500002


# Loading


def content_in_host_memory(path):
    data = path.read_bytes()
    address, _ = acl.rt.malloc_host(len(data))
    ctypes.memmove(address, data, len(data))
    return address, len(data)


def test_the_ways_to_load(files):
    path = str(files["static"])
    work_size, weight_size, ret = acl.mdl.query_size(path)
    assert ret == 0
    assert work_size > 0
    address, size = content_in_host_memory(files["static"])
    assert acl.mdl.query_size_from_mem(address, size) == (work_size, weight_size, 0)
    work, _ = acl.rt.malloc(work_size, 0)
    assert acl.mdl.load_from_file(path) == (1, 0)
    assert acl.mdl.load_from_mem(address, size) == (2, 0)
    assert acl.mdl.load_from_file_with_mem(path, work, work_size, 0, 0) == (3, 0)
    assert acl.mdl.load_from_mem_with_mem(address, size, work, work_size, 0, 0) == (4, 0)
    assert acl.mdl.unload(4) == 0
    assert acl.mdl.load_from_file(path) == (5, 0), "ids are never used again"
    assert acl.mdl.load_from_file_with_mem(path, work, work_size - 1, 0, 0) == (0, 145000)


def test_an_id_does_not_come_back(files):
    for expected in (1, 2, 3):
        assert acl.mdl.load_from_file(str(files["static"])) == (expected, 0)
        assert acl.mdl.unload(expected) == 0


def test_a_mapped_file_may_be_unmapped_at_once(files):
    with files["static"].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        model, ret = acl.mdl.load_from_mem(address, len(mapped))
    assert (model, ret) == (1, 0)


def test_user_memory_must_outlive_the_model(files):
    work_size, _, _ = acl.mdl.query_size(str(files["static"]))
    work, _ = acl.rt.malloc(work_size, 0)
    client = Client(files["static"])
    model, _ = acl.mdl.load_from_file_with_mem(str(files["static"]), work, work_size, 0, 0)
    client.put(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert acl.mdl.execute(model, client.inputs, client.outputs) == 0
    acl.rt.free(work)
    with pytest.raises(Violation, match=r"use after free.*work memory of model 2"):
        acl.mdl.execute(model, client.inputs, client.outputs)


def test_load_with_config(files):
    address, size = content_in_host_memory(files["static"])
    handle = acl.mdl.create_config_handle()
    assert acl.mdl.load_with_config(handle) == (0, 100000)
    assert acl.mdl.set_config_opt(handle, 1, 1) == 0
    assert acl.mdl.load_with_config(handle) == (0, 100000), "no path"
    assert acl.mdl.set_config_opt(handle, 2, str(files["static"])) == 0
    assert acl.mdl.load_with_config(handle) == (1, 0)
    for attribute, value in ((1, 3), (3, address), (4, size)):
        assert acl.mdl.set_config_opt(handle, attribute, value) == 0
    assert acl.mdl.load_with_config(handle) == (2, 0)
    for kind in (2, 4):
        assert acl.mdl.set_config_opt(handle, 1, kind) == 0
        assert acl.mdl.load_with_config(handle)[1] == 0
    with pytest.raises(TypeError, match=r"acl\.mdl\.set_config_opt args parse failed!"):
        acl.mdl.set_config_opt(handle, 2, 5)
    assert acl.mdl.set_config_opt(handle, 99, 1) == 100000
    assert acl.mdl.destroy_config_handle(handle) == 0
    assert acl.mdl.destroy_config_handle(0) == 100000


@pytest.mark.parametrize("call", ["load_from_file", "bundle_load_from_file", "query_size"])
def test_files_that_cannot_be_loaded(tmp_path, call):
    load = getattr(acl.mdl, call)
    assert load(str(tmp_path / "nope.om"))[-1] == 145002
    assert load(str(tmp_path))[-1] == 145002
    for content in (b"", b"IMOD", b"\0" * 200, (0x444F4D49).to_bytes(4, "little") * 50):
        (tmp_path / "bad.om").write_bytes(content)
        assert load(str(tmp_path / "bad.om"))[-1] == 145006
        assert all(item == 0 for item in load(str(tmp_path / "bad.om"))[:-1])


def test_memory_that_cannot_be_loaded(files):
    address, size = content_in_host_memory(files["static"])
    assert acl.mdl.load_from_mem(0, size) == (0, 100000)
    assert acl.mdl.load_from_mem(address, 0) == (0, 100000)
    assert acl.mdl.load_from_mem(address, size - 1) == (0, 145006)


def test_loading_needs_init_and_a_context(files):
    testing.reset()
    assert acl.mdl.load_from_file(str(files["static"])) == (0, 145001)
    acl.init()
    assert acl.mdl.load_from_file(str(files["static"])) == (0, 107002)


def test_a_model_that_the_device_cannot_hold(files):
    restart(memory_bytes=64)
    assert acl.mdl.load_from_file(str(files["batch"])) == (0, 207001)


def test_models_take_device_memory_until_they_are_unloaded(files):
    before = acl.rt.get_mem_info(0)
    model, _ = acl.mdl.load_from_file(str(files["batch"]))
    assert acl.rt.get_mem_info(0)[0] < before[0] or acl.rt.get_mem_info(1)[0] < acl.rt.get_mem_info(1)[1]
    assert [leak.kind for leak in testing.ledger().leaks] == ["model"]
    assert acl.mdl.unload(model) == 0
    assert acl.rt.get_mem_info(0) == before
    assert acl.mdl.unload(model) == 145003
    assert acl.mdl.unload(77) == 145003


def test_device_mode_reads_models_from_device_memory(files):
    restart(run_mode="device")
    data = files["static"].read_bytes()
    address, _ = acl.rt.malloc(len(data), 0)
    ctypes.memmove(address, data, len(data))
    assert acl.mdl.load_from_mem(address, len(data)) == (1, 0)


def test_bundles(files, tmp_path):
    path = tmp_path / "bundle.om"
    _om.write(path, _om.Bundle((_om.read(files["static"]), _om.read(files["batch"]))))
    assert acl.mdl.load_from_file(str(path)) == (0, 145006)
    bundle, ret = acl.mdl.bundle_load_from_file(str(path))
    assert ret == 0
    assert acl.mdl.bundle_get_model_num(bundle) == (2, 0)
    inner, ret = acl.mdl.bundle_get_model_id(bundle, 1)
    assert (inner, ret) == (2, 0)
    assert acl.mdl.bundle_get_model_id(bundle, 2) == (0, 100000)
    assert acl.mdl.unload(inner) == 100000
    address, size = content_in_host_memory(path)
    assert acl.mdl.bundle_load_from_mem(address, size) == (2, 0)
    assert acl.mdl.bundle_unload(bundle) == 0
    assert acl.mdl.bundle_unload(bundle) == 100000
    assert acl.mdl.get_desc(acl.mdl.create_desc(), inner) == 145003


# Describing


@pytest.fixture
def batch(files):
    return Client(files["batch"])


def test_descs(files):
    desc = acl.mdl.create_desc()
    assert acl.mdl.get_num_inputs(desc) == 0
    assert acl.mdl.get_desc(0, 1) == 100000
    assert acl.mdl.get_desc(desc, 1) == 145003
    assert acl.mdl.get_desc_from_file(desc, str(files["batch"])) == 0
    assert acl.mdl.get_num_inputs(desc) == 2, "the gear input counts"
    assert acl.mdl.get_cur_output_dims(desc, 0)[0]["dims"] == [8, 4]
    address, size = content_in_host_memory(files["static"])
    assert acl.mdl.get_desc_from_mem(desc, address, size) == 0
    assert acl.mdl.get_num_inputs(desc) == 2
    assert acl.mdl.destroy_desc(desc) == 0
    assert acl.mdl.destroy_desc(0) == 100000
    with pytest.raises(Violation, match="stale handle"):
        acl.mdl.get_num_inputs(desc)


def test_queries_of_a_null_desc():
    assert acl.mdl.get_num_inputs(0) == 0
    assert acl.mdl.get_num_outputs(0) == 0
    assert acl.mdl.get_dynamic_batch(0) == ({}, 100000)
    assert acl.mdl.get_input_dims(0, 0) == ({}, 100000)


def test_shapes_sizes_names_types(batch):
    desc = batch.desc
    assert acl.mdl.get_input_dims(desc, 0) == ({"name": "x", "dimCount": 2, "dims": [-1, 6]}, 0)
    assert acl.mdl.get_input_dims_v2(desc, 0) == acl.mdl.get_input_dims(desc, 0)
    assert acl.mdl.get_input_dims(desc, 1) == ({"name": GEAR, "dimCount": 1, "dims": [1]}, 0)
    assert acl.mdl.get_output_dims(desc, 0) == ({"name": "add:0:y", "dimCount": 2, "dims": [8, 4]}, 0)
    assert [acl.mdl.get_input_size_by_index(desc, index) for index in range(3)] == [8 * 6 * 4, 4, 0]
    assert [acl.mdl.get_output_size_by_index(desc, index) for index in range(2)] == [8 * 4 * 4, 0]
    assert [acl.mdl.get_input_name_by_index(desc, index) for index in range(3)] == ["x", GEAR, ""]
    assert [acl.mdl.get_output_name_by_index(desc, index) for index in range(2)] == ["add:0:y", ""]
    assert [acl.mdl.get_input_data_type(desc, index) for index in range(3)] == [0, 3, -1]
    assert [acl.mdl.get_output_data_type(desc, index) for index in range(2)] == [0, -1]
    assert [acl.mdl.get_input_format(desc, index) for index in range(3)] == [2, 2, -1]
    assert [acl.mdl.get_output_format(desc, index) for index in range(2)] == [2, -1]
    assert acl.mdl.get_input_dims_range(desc, 0) == ({"rangeCount": 0, "range": []}, 0)
    for query in (acl.mdl.get_input_dims, acl.mdl.get_output_dims, acl.mdl.get_cur_output_dims, acl.mdl.get_input_dims_v2):
        assert query(desc, 9) == ({}, 100000)


def test_index_by_name(batch, files):
    assert acl.mdl.get_input_index_by_name(batch.desc, GEAR) == (1, 0)
    assert acl.mdl.get_input_index_by_name(batch.desc, "nope") == (0, 100000)
    assert acl.mdl.get_output_index_by_name(batch.desc, "add:0:y") == (0, 0)
    assert acl.mdl.get_output_index_by_name(batch.desc, "y") == (0, 100000)
    assert acl.mdl.get_input_index_by_name(Client(files["static"]).desc, GEAR) == (0, 100000), "how clients detect gears"


def test_gear_lists(files, batch):
    assert acl.mdl.get_dynamic_batch(batch.desc) == ({"batchCount": 4, "batch": [1, 2, 4, 8]}, 0)
    static = Client(files["static"]).desc
    assert acl.mdl.get_dynamic_batch(static) == ({"batchCount": 0, "batch": []}, 0)
    assert acl.mdl.get_dynamic_hw(static, TOO_BIG) == ({"hwCount": 0, "hw": []}, 0)
    assert acl.mdl.get_input_dynamic_gear_count(static, -1) == (0, 0)
    assert acl.mdl.get_input_dynamic_gear_count(static, 0) == (0, 100000)
    dims = Client(files["dims"]).desc
    assert acl.mdl.get_input_dynamic_dims(dims, -1, 4)[0][2:] == [{}, {}]
    assert acl.mdl.get_input_dynamic_dims(dims, -1, 1)[1] == 100000
    assert acl.mdl.get_input_dynamic_dims(dims, 0, 2)[1] == 100000
    assert acl.mdl.get_input_dynamic_dims(dims, -1, 4097) == (None, 100000)


@pytest.mark.parametrize(("count", "code"), [(128, 0), (129, 300000)])
def test_more_gears_than_can_be_read(files, tmp_path, count, code):
    model = _om.read(files["batch"])
    gears = tuple((n,) for n in range(1, count + 1))
    changes = {name: getattr(model, name) for name in _om._MODEL_FIELDS} | {"graph": model.graph}
    changes |= {"gears": gears, "output_shapes": tuple(((n, 4),) for (n,) in gears), "flops": (0,) * count}
    _om.write(tmp_path / "many.om", _om.Model(**changes))
    listed, ret = acl.mdl.get_dynamic_batch(Client(tmp_path / "many.om").desc)
    assert ret == code
    assert listed == ({} if code else {"batchCount": 128, "batch": [n for (n,) in gears]})


def test_names_beyond_127_characters(tmp_path):
    name = "x" * 128
    model = build([helper.make_node("Neg", [name], ["y"], name="n" * 127)], [(name, F32, [2])], [("y", F32, [2])])
    client = Client(convert(tmp_path, model))
    shown = f"acl_modelId_{client.model}_input_0"
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["name"] == shown
    assert acl.mdl.get_input_index_by_name(client.desc, shown) == (0, 0)
    assert acl.mdl.get_tensor_real_name(client.desc, shown) == name
    assert acl.mdl.get_output_name_by_index(client.desc, 0) == f"acl_modelId_{client.model}_output_0"
    assert acl.mdl.get_tensor_real_name(client.desc, "nope") is None


def test_op_attr(batch):
    assert acl.mdl.get_op_attr(batch.desc, "mm", "_datadump_original_op_names") == ""
    assert acl.mdl.get_op_attr(batch.desc, "mm", "other") is None


# Datasets


def test_datasets(batch):
    dataset = acl.mdl.create_dataset()
    buffer = acl.create_data_buffer(0, 0)
    assert acl.mdl.add_dataset_buffer(dataset, 0)[1] == 100000
    assert acl.mdl.add_dataset_buffer(0, buffer)[1] == 100000
    assert acl.mdl.add_dataset_buffer(dataset, buffer) == (dataset, 0)
    assert acl.mdl.get_dataset_num_buffers(dataset) == 1
    assert acl.mdl.get_dataset_num_buffers(0) == 0
    assert acl.mdl.get_dataset_buffer(dataset, 0) == buffer
    assert acl.mdl.get_dataset_buffer(dataset, 1) == 0
    assert acl.mdl.get_dataset_tensor_desc(dataset, 0) == 0
    assert acl.mdl.set_dataset_tensor_desc(0, 1, 0)[1] == 100000
    assert acl.mdl.destroy_dataset(dataset) == 0
    assert acl.mdl.destroy_dataset(0) == 100000
    assert acl.destroy_data_buffer(buffer) == 0, "a dataset does not free what it holds"


# Gears: 3.3, in its order


def test_a_gear_set_with_bad_arguments(batch):
    model, dataset, gear = batch.model, batch.inputs, batch.gear_index
    assert acl.mdl.set_dynamic_batch_size(model, 0, gear, 2) == 100000
    assert acl.mdl.set_dynamic_batch_size(model, dataset, gear, 0) == 100000
    assert acl.mdl.set_dynamic_batch_size(model, dataset, 2, 2) == 100000
    empty = acl.mdl.create_dataset()
    acl.mdl.add_dataset_buffer(empty, acl.create_data_buffer(0, 4))
    assert acl.mdl.set_dynamic_batch_size(model, empty, 0, 2) == 100000
    address, _ = acl.rt.malloc(4, 0)
    short = acl.mdl.create_dataset()
    acl.mdl.add_dataset_buffer(short, acl.create_data_buffer(address, 3))
    assert acl.mdl.set_dynamic_batch_size(77, short, 0, 2) == 145012, "the length comes before the id"
    assert acl.mdl.set_dynamic_batch_size(77, dataset, gear, 2) == 145003
    for value in (3, 16):
        assert batch.set_batch(value) == 145013, "nothing is rounded up"
    assert acl.mdl.set_dynamic_hw_size(model, dataset, gear, 0, 1) == 100000
    assert acl.mdl.set_dynamic_hw_size(model, dataset, gear, 1, 1) == 145012, "4 bytes do not hold two values"


def test_other_kinds_of_model_refuse(files):
    static = Client(files["static"])
    assert acl.mdl.set_dynamic_batch_size(static.model, static.inputs, 0, 2) == 145013
    image = Client(files["image"])
    assert image.set_batch(8) == 145013
    assert image.set_hw(7, 8) == 145013
    dims = Client(files["dims"])
    assert dims.set_batch(2) == 145013
    assert dims.set_hw(2, 5) == 145013
    assert acl.mdl.set_input_dynamic_dims(image.model, image.inputs, 1, {"dimCount": 4, "dims": [1, 3, 8, 8]}) == 145013


def test_the_engine_compares_only_the_number_of_values(files):
    client = Client(files["dims1"])
    assert client.set_batch(2) == 0
    assert acl.mdl.get_cur_output_dims(client.desc, 0) == ({}, 500001)
    client = Client(files["dims2"])
    assert client.set_hw(16, 8) == 0
    assert acl.mdl.get_cur_output_dims(client.desc, 0) == ({}, 500001)


def test_dims_sets(files):
    client = Client(files["dims"])
    assert client.set_dims({"dimCount": 0, "dims": []}) == 100000
    assert client.set_dims({"dimCount": 3, "dims": [2, 5, 2]}) == 145012
    assert client.set_dims({"dimCount": 4, "dims": [2, 5, 2, 4]}) == 145012, "a fixed axis"
    assert client.set_dims({"dimCount": 4, "dims": [2, 5, 4, 3]}) == 145013
    for wrong in ([2], None, {"dimCount": 1, "dims": (1,)}, {"dimCount": 1, "dims": [1.0]}, {"dimCount": 2, "dims": [1]}):
        with pytest.raises(TypeError, match="set_input_dynamic_dims"):
            client.set_dims(wrong)
    with pytest.raises(Violation, match="dimCount"):
        client.set_dims({"dims": [2, 5, 2, 3]})
    address, _ = acl.rt.malloc(4, 0)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(client.inputs, 2), address, 4)
    assert client.set_dims({"dimCount": 4, "dims": [2, 5, 2, 3]}) == 145012, "the buffer is too short"


@pytest.mark.parametrize(("size", "width"), [(4, 4), (7, 4), (8, 8), (12, 8)])
def test_how_a_gear_lies_in_its_buffer(batch, size, width):
    address, _ = acl.rt.malloc(16, 0)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(batch.inputs, 1), address, size)
    assert batch.set_batch(4) == 0
    view = bytes(testing.machine().memory.view(address, 16, "test"))
    assert view[:width] == (4).to_bytes(width, "little")
    assert view[width:] == b"\xff" * (16 - width)
    batch.put(np.ones((4, 6), np.float32))
    assert batch.execute() == 0
    assert testing.ledger().launches == {"batch": {"4": 1}}


@pytest.mark.parametrize(("size", "width"), [(8, 4), (15, 4), (16, 8)])
def test_how_two_values_lie_in_their_buffer(files, size, width):
    client = Client(files["image"])
    address, _ = acl.rt.malloc(16, 0)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(client.inputs, 1), address, size)
    assert client.set_hw(16, 8) == 0
    view = bytes(testing.machine().memory.view(address, 16, "test"))
    assert view[: 2 * width] == (16).to_bytes(width, "little") + (8).to_bytes(width, "little")
    client.put(np.ones((1, 3, 16, 8), np.float32))
    assert client.execute() == 0
    assert testing.ledger().launches == {"image": {"16,8": 1}}


def test_cur_output_dims_belong_to_the_model_id_and_what_runs_to_the_dataset(batch):
    other, _ = batch._dataset(acl.mdl.get_num_inputs, acl.mdl.get_input_size_by_index)
    assert acl.mdl.get_cur_output_dims(batch.desc, 0)[0]["dims"] == [8, 4], "never set: the largest"
    assert batch.set_batch(2) == 0
    assert acl.mdl.get_cur_output_dims(batch.desc, 0)[0]["dims"] == [2, 4], "before any execute"
    assert acl.mdl.set_dynamic_batch_size(batch.model, other, 1, 4) == 0
    assert acl.mdl.get_cur_output_dims(batch.desc, 0)[0]["dims"] == [4, 4]
    batch.put(np.ones((2, 6), np.float32))
    assert batch.execute() == 0
    assert testing.ledger().launches == {"batch": {"2": 1}}, "the bytes in the executed dataset decide"
    assert batch.set_batch(3) == 145013
    assert acl.mdl.get_cur_output_dims(batch.desc, 0)[0]["dims"] == [4, 4], "a refused set changes nothing here"


def test_after_a_failed_set(batch):
    restart_text = "failed gear set"
    assert batch.set_batch(2) == 0
    assert batch.set_batch(3) == 145013
    batch.put(np.ones((8, 6), np.float32))
    with pytest.raises(Violation, match=restart_text):
        batch.execute()
    assert batch.set_batch(4) == 0
    assert batch.execute() == 0


def test_after_a_failed_set_in_tolerant_mode(files):
    restart(strict=False)
    client = Client(files["batch"])
    assert client.set_batch(2) == 0
    assert client.set_batch(3) == 145013
    client.put(np.ones((8, 6), np.float32))
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(client.outputs, 0), client.address(client.outputs, 0), 32)
    assert client.execute() == 0, "marked: no size check, and the old bytes of the buffer decide"
    assert testing.ledger().launches == {"batch": {"2": 1}}


def test_no_gear_set(batch, files):
    batch.put(np.ones((8, 6), np.float32))
    with pytest.raises(Violation, match="no gear set"):
        batch.execute()
    restart(strict=False)
    client = Client(files["batch"])
    client.put(np.ones((8, 6), np.float32))
    assert client.execute() == 0
    assert testing.ledger().launches == {"batch": {"8": 1}}, "imitates the largest gear"


def test_a_gear_input_written_by_hand(batch):
    assert batch.set_batch(2) == 0
    four = np.array([4], np.int32).tobytes()
    acl.rt.memcpy(batch.address(batch.inputs, 1), 4, acl.util.bytes_to_ptr(four), 4, H2D)
    batch.put(np.ones((8, 6), np.float32))
    with pytest.raises(Violation, match="gear input written"):
        batch.execute()


def test_zeros_in_the_gear_buffer_before_the_set_are_fine(batch):
    acl.rt.memset(batch.address(batch.inputs, 1), 4, 0, 4)
    assert batch.set_batch(2) == 0
    batch.put(np.ones((2, 6), np.float32))
    assert batch.execute() == 0


def test_a_gear_set_into_a_data_input(batch):
    with pytest.raises(Violation, match="gear in a data input"):
        acl.mdl.set_dynamic_batch_size(batch.model, batch.inputs, 0, 2)


# Executing, 3.5


def test_execute_refuses(batch, files):
    assert acl.mdl.execute(batch.model, 0, batch.outputs) == 100000
    assert acl.mdl.execute(batch.model, batch.inputs, 0) == 100000
    assert acl.mdl.execute(77, batch.inputs, batch.outputs) == 145003
    assert acl.mdl.execute(batch.model, batch.outputs, batch.outputs) == 145000, "the gear input counts"
    assert acl.mdl.execute(batch.model, batch.inputs, batch.inputs) == 145000
    with pytest.raises(TypeError, match=r"acl\.mdl\.execute args parse failed!"):
        acl.mdl.execute(batch.model, None, batch.outputs)
    assert acl.mdl.execute(np.uint32(77), batch.inputs, batch.outputs) == 145003


def shorten(client, dataset, index, size):
    address, _ = acl.rt.malloc(max(size, 1), 0)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(dataset, index), address, size)


def test_sizes_are_checked_without_a_gear_only(tmp_path, files):
    model = build([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [100])], [("y", F32, [100])])
    client = Client(convert(tmp_path, model))
    shorten(client, client.inputs, 0, 400 - 65)
    assert client.execute() == 500002
    assert "E13025" in acl.get_recent_err_msg()
    shorten(client, client.inputs, 0, 400 - 64)
    with pytest.raises(Violation, match="short buffer"):
        client.execute()
    gears = Client(files["batch"])
    shorten(gears, gears.outputs, 0, 32)
    assert gears.set_batch(2) == 0
    gears.put(np.ones((2, 6), np.float32))
    assert gears.execute() == 0, "a gear-sized buffer is fine"
    assert gears.set_batch(8) == 0
    gears.put(np.ones((8, 6), np.float32))
    with pytest.raises(Violation, match="short buffer"):
        gears.execute()


def test_an_output_without_address_is_allocated(files):
    client = Client(files["static"])
    client.put(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    buffer = acl.mdl.get_dataset_buffer(client.outputs, 0)
    acl.update_data_buffer(buffer, 0, 0)
    assert client.execute() == 0
    assert acl.get_data_buffer_size(buffer) == 24
    np.testing.assert_array_equal(client.get(0), np.full((2, 3), 2, np.float32))
    assert acl.rt.free(acl.get_data_buffer_addr(buffer)) == 0


def test_host_memory_as_an_input(files):
    client = Client(files["static"])
    host, _ = acl.rt.malloc_host(24)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(client.inputs, 0), host, 24)
    with pytest.raises(Violation, match="host pointer"):
        client.execute()


def test_freed_memory_as_an_input(files):
    client = Client(files["static"])
    acl.rt.free(client.address(client.inputs, 0))
    with pytest.raises(Violation, match="use after free"):
        client.execute()


def test_a_model_of_another_context(files):
    client = Client(files["static"])
    acl.rt.create_context(0)
    with pytest.raises(Violation, match=r"^\[other context\]"):
        client.execute()


def test_fp16_changes_numbers(tmp_path):
    x = np.random.default_rng(3).standard_normal((8, 6)).astype(np.float32)
    results = {}
    for precision in ("force_fp16", "force_fp32"):
        client = Client(convert(tmp_path, dense(), "--input_shape=x:8,6", precision=precision, name=precision))
        client.put(x)
        assert client.execute() == 0
        results[precision] = client.get(0)
    reference = dense_reference(x)
    np.testing.assert_allclose(results["force_fp32"], reference, rtol=1e-5, atol=1e-6)
    assert np.abs(results["force_fp16"] - reference).max() > 1e-4
    np.testing.assert_allclose(results["force_fp16"], reference, rtol=5e-3, atol=5e-3)
    np.testing.assert_array_equal(results["force_fp16"], results["force_fp16"].astype(np.float16).astype(np.float32))


# Streams


def test_async_flow(batch):
    stream, _ = acl.rt.create_stream()
    x = np.random.default_rng(4).standard_normal((4, 6)).astype(np.float32)
    batch.put(x)
    assert batch.set_batch(4) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, stream) == 0
    with pytest.raises(Violation, match="read before synchronising"):
        batch.get(0)
    assert acl.rt.synchronize_stream(stream) == 0
    np.testing.assert_allclose(batch.get(0), dense_reference(x), rtol=1e-5, atol=1e-6)
    assert testing.ledger().launches == {"batch": {"4": 1}}


def test_async_on_the_default_stream_and_v2(batch):
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(1) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 0
    config = acl.mdl.create_exec_config_handle()
    assert acl.mdl.set_exec_config_opt(config, 0, 1) == 0
    assert acl.mdl.set_exec_config_opt(0, 0, 1) == 100000
    assert acl.mdl.execute_v2(batch.model, batch.inputs, batch.outputs, 0, config) == 0
    assert acl.mdl.destroy_exec_config_handle(config) == 0
    assert acl.rt.synchronize_stream(0) == 0
    assert testing.ledger().launches == {"batch": {"1": 2}}


def test_setting_a_gear_while_queued_work_reads_it(batch):
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(1) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 0
    with pytest.raises(Violation, match="queued work uses this"):
        batch.set_batch(2)


def test_mixing_is_refused(batch, files):
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(1) == 0
    assert batch.execute() == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 500002
    other = Client(files["static"])
    other.put(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert acl.mdl.execute_async(other.model, other.inputs, other.outputs, 0) == 0
    assert acl.rt.synchronize_stream(0) == 0
    assert other.execute() == 500002


def test_async_refuses(batch):
    stream, _ = acl.rt.create_stream()
    acl.rt.destroy_stream(stream)
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, stream) == 107017
    mine, _ = acl.rt.get_context()
    acl.rt.create_context(0)
    theirs, _ = acl.rt.create_stream()
    acl.rt.set_context(mine)
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, theirs) == 107003
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(batch.outputs, 0), 0, 0)
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 100000


def test_one_model_on_two_streams(batch):
    first, _ = acl.rt.create_stream()
    second, _ = acl.rt.create_stream()
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(1) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, first) == 0
    with pytest.raises(Violation, match="one model on two streams"):
        acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, second)
    event, _ = acl.rt.create_event()
    acl.rt.record_event(event, first)
    acl.rt.stream_wait_event(second, event)
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, second) == 0, "an event orders them"
    assert acl.rt.synchronize_stream(second) == 0


def test_unload_while_work_is_queued(batch):
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(1) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 0
    with pytest.raises(Violation, match="unload while in use"):
        acl.mdl.unload(batch.model)


def test_device_time_follows_the_profile(files):
    restart(device_time="affine:100,10")
    client = Client(files["batch"])
    client.put(np.ones((8, 6), np.float32))
    busy = testing.ledger().busy_us
    for batch, cost in ((1, 110), (8, 180)):
        assert client.set_batch(batch) == 0
        before = busy.get("compute", 0.0)
        assert client.execute() == 0
        assert busy["compute"] - before == pytest.approx(cost)


def test_a_gear_can_slow_down_while_a_program_runs(files):
    restart(device_time="affine:100,10")
    client = Client(files["batch"])
    client.put(np.ones((8, 6), np.float32))
    busy = testing.ledger().busy_us

    def cost(batch: int) -> float:
        assert client.set_batch(batch) == 0
        before = busy.get("compute", 0.0)
        assert client.execute() == 0
        return busy["compute"] - before

    assert cost(8) == pytest.approx(180)
    testing.slow_down("@8", 3.0)
    assert cost(8) == pytest.approx(540)
    assert cost(1) == pytest.approx(110)
    testing.slow_down("@8", 1.0)
    assert cost(8) == pytest.approx(180)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_nothing_slows_down_by_no_factor(factor):
    with pytest.raises(ValueError, match="expected a factor above 0"):
        testing.slow_down("@8", factor)


# AIPP


def test_static_aipp_flow(tmp_path):
    conf = tmp_path / "aipp.cfg"
    conf.write_text(
        "aipp_op { aipp_mode: static input_format: RGB888_U8 rbuv_swap_switch: true mean_chn_0: 10 var_reci_chn_1: 0.5 }"
    )
    shape = ("--input_shape=img:1,3,8,8", f"--insert_op_conf={conf}")
    plain = Client(convert(tmp_path, conv(), shape[0], name="plain"))
    client = Client(convert(tmp_path, conv(), *shape, name="aipp"))
    assert acl.mdl.get_input_data_type(client.desc, 0) == 4
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["dims"] == [1, 8, 8, 3]
    assert acl.mdl.get_input_dims_v2(client.desc, 0)[0]["dims"] == [1, 8, 8, 3], "their product is the size"
    assert client.input_sizes == [8 * 8 * 3]
    image = np.random.default_rng(5).integers(0, 256, (1, 8, 8, 3), np.uint8)
    client.put(image)
    assert client.execute() == 0
    values = image[..., ::-1].astype(np.float32) - np.array([10, 0, 0], np.float32)
    plain.put((values * np.array([1, 0.5, 1], np.float32)).transpose(0, 3, 1, 2))
    assert plain.execute() == 0
    np.testing.assert_array_equal(client.get(0), plain.get(0))
    assert acl.mdl.get_aipp_type(client.model, 0) == (1, 0xFFFFFFFF, 0)
    assert acl.mdl.get_aipp_type(plain.model, 0) == (0, 0xFFFFFFFF, 0)
    info, ret = acl.mdl.get_first_aipp_info(client.model, 0)
    assert ret == 0
    assert (info["meanChn0"], info["varReciChn1"], info["rbuvSwapSwitch"], info["inputFormat"]) == (10, 0.5, 1, 3)
    dims = {"name": "img", "dimCount": 4, "dims": [1, 3, 8, 8]}
    assert info["outDims"] == [{"srcDims": dims, "srcSize": 768, "aippOutdims": dims, "aippOutSize": 768}]
    assert (info["srcFormat"], info["srcDatatype"], info["srcDimNum"], info["shapeCount"]) == (0, 0, 4, 1)
    assert (info["srcImageSizeW"], info["srcImageSizeH"]) == (8, 8)
    assert acl.mdl.get_first_aipp_info(plain.model, 0) == (None, 145015)
    assert acl.mdl.get_aipp_type(77, 0) == (0, 0, 145003)


def test_static_aipp_with_batch_gears(tmp_path):
    conf = tmp_path / "aipp.cfg"
    conf.write_text("aipp_op { aipp_mode: static input_format: YUV400_U8 var_reci_chn_0: 0.25 }")
    model = build([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, ["n", 1, 2, 3])], [("y", F32, ["n", 1, 2, 3])])
    flags = ("--input_shape=x:-1,1,2,3", "--dynamic_batch_size=1,4", f"--insert_op_conf={conf}")
    client = Client(convert(tmp_path, model, *flags))
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["dims"] == [-1, 2, 3, 1]
    assert client.input_sizes == [24, 4]
    image = np.arange(24, dtype=np.uint8)
    client.put(image)
    for batch in (4, 1):
        assert client.set_batch(batch) == 0
        assert client.execute() == 0
        np.testing.assert_array_equal(client.get(0).ravel(), image[: 6 * batch] / -4)


def test_a_shape_that_changes_after_execute_async_changes_nothing(files):
    client = Client(files["range"])
    client.put(np.ones((8, 6), np.float32))
    assert acl.mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 145000, "no tensor desc"
    for rows in (3, 9):
        desc = acl.create_tensor_desc(0, [rows, 6], 2)
        acl.mdl.set_dataset_tensor_desc(client.inputs, desc, 0)
        if rows == 3:
            assert acl.mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0
    assert acl.rt.synchronize_stream(0) == 0
    assert testing.ledger().launches == {"range": {"3,6": 1}}


def test_a_queued_execution_keeps_its_addresses_and_reads_the_gear_when_it_runs(batch):
    batch.put(np.ones((8, 6), np.float32))
    assert batch.set_batch(2) == 0
    assert acl.mdl.execute_async(batch.model, batch.inputs, batch.outputs, 0) == 0
    for dataset in (batch.inputs, batch.outputs):
        acl.update_data_buffer(acl.mdl.get_dataset_buffer(dataset, 0), 0, 0)
    assert batch.set_batch(3) == 145013, "a refused set writes nothing"
    assert acl.rt.synchronize_stream(0) == 0
    assert testing.ledger().launches == {"batch": {"2": 1}}


def test_an_error_of_a_queued_execution_surfaces_in_the_synchronisation(tmp_path):
    model = build([helper.make_node("Gather", ["x", "i"], ["y"])], [("x", F32, [3]), ("i", 6, [1])], [("y", F32, [1])])
    client = Client(convert(tmp_path, model))
    client.put(np.ones(3, np.float32), np.array([7], np.int32))
    assert acl.mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0
    assert acl.rt.synchronize_stream(0) == 507011


def test_dir_lists_functions_only():
    names = dir(acl.mdl)
    assert {"execute", "load_from_file", "set_aipp_csc_params"} <= set(names)
    assert all(callable(getattr(acl.mdl, name)) for name in names)


def test_a_tensor_desc_beside_a_gear(files):
    for strict in (True, False):
        restart(strict=strict)
        client = Client(files["batch"])
        client.put(np.ones((8, 6), np.float32))
        acl.mdl.set_dataset_tensor_desc(client.inputs, acl.create_tensor_desc(0, [4, 6], 2), 0)
        assert client.set_batch(2) == 0
        if strict:
            with pytest.raises(Violation, match="gear and tensor desc"):
                client.execute()
        else:
            assert client.execute() == 0
            assert testing.ledger().launches == {"batch": {"2": 1}}, "the gear decides"
