"""Rules of contracts/pyacl.md that are not one function's row: the order of checks, what a refusal leaves behind, messages."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import helper

import acl_sim as acl
from acl_sim import _om, testing
from acl_sim.testing import Violation
from tiny_models import add2, build, conv, convert, dense, pair

mdl, rt = acl.mdl, acl.rt
STALE = 0x2000_0000_0000 + 64 * 10_000


@pytest.fixture(scope="session")
def rule_files(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("rules")
    return {
        "static": convert(tmp, add2(), name="static"),
        "batch": convert(tmp, dense(), "--input_shape=x:-1,6", "--dynamic_batch_size=1,2,40", name="batch"),
        "image": convert(tmp, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8,8;16,8", name="image"),
        "dims": convert(tmp, pair(), "--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,5,2;40,7,40", name="dims"),
        "range": convert(tmp, dense(), "--input_shape=x:2~8,6", name="range"),
    }


class Bench:
    """One loaded model with datasets of the sizes it asks for; `shorten` and `renew` replace one buffer's memory."""

    def __init__(self, path):
        self.model, ret = mdl.load_from_file(str(path))
        assert ret == 0
        self.desc = mdl.create_desc()
        assert mdl.get_desc(self.desc, self.model) == 0
        self.inputs = dataset(
            *(mdl.get_input_size_by_index(self.desc, index) for index in range(mdl.get_num_inputs(self.desc)))
        )
        self.outputs = dataset(
            *(mdl.get_output_size_by_index(self.desc, index) for index in range(mdl.get_num_outputs(self.desc)))
        )
        self.gear = mdl.get_num_inputs(self.desc) - 1

    def fill(self):
        for index in range(mdl.get_num_inputs(self.desc)):
            buffer = mdl.get_dataset_buffer(self.inputs, index)
            size = acl.get_data_buffer_size(buffer)
            if mdl.get_input_name_by_index(self.desc, index) != _om.GEAR_INPUT:
                assert rt.memset(acl.get_data_buffer_addr(buffer), size, 0, size) == 0

    def execute(self):
        return mdl.execute(self.model, self.inputs, self.outputs)

    def set_batch(self, batch, *, dataset=None, model=None, index=None):
        return mdl.set_dynamic_batch_size(*self._set(model, dataset, index), batch)

    def set_hw(self, height, width, *, dataset=None, model=None, index=None):
        return mdl.set_dynamic_hw_size(*self._set(model, dataset, index), height, width)

    def set_dims(self, dims, *, dataset=None, model=None, index=None):
        return mdl.set_input_dynamic_dims(*self._set(model, dataset, index), dims)

    def _set(self, model, dataset, index):
        return (
            self.model if model is None else model,
            self.inputs if dataset is None else dataset,
            self.gear if index is None else index,
        )

    def shorten(self, dataset, index, size):
        buffer = mdl.get_dataset_buffer(dataset, index)
        assert acl.update_data_buffer(buffer, acl.get_data_buffer_addr(buffer), size) == 0


def dataset(*sizes):
    made = mdl.create_dataset()
    for size in sizes:
        address = rt.malloc(size, 0)[0] if size else 0
        assert mdl.add_dataset_buffer(made, acl.create_data_buffer(address, size)) == (made, 0)
    return made


def start(**config):
    testing.reset(**config)
    assert acl.init() == 0
    assert rt.set_device(0) == 0


@pytest.fixture
def bench(fresh_machine, rule_files):
    start()
    return lambda name: Bench(rule_files[name])


def last_message():
    message = acl.get_recent_err_msg()
    assert message is not None
    return message


def dims(*values):
    return {"dimCount": len(values), "dims": list(values)}


# 3.3: the order of the checks. Each row breaks one rule and every later one; the message tells which one spoke.

BATCH_ORDER = [
    ({"dataset": 0, "batch": 0, "index": 9, "model": 77}, 100000, "the dataset is null"),
    ({"batch": 0, "index": 9, "model": 77}, 100000, "must be at least 1"),
    ({"batch": 3, "index": 1, "model": 77, "sizes": (4,)}, 100000, "buffer 1: the dataset has 1"),
    ({"batch": 3, "index": 0, "model": 77, "sizes": (0,)}, 100000, "the address of buffer 0 is null"),
    ({"batch": 3, "index": 0, "model": 77, "sizes": (3,)}, 145012, "3 bytes, 4 are needed"),
    ({"batch": 3, "index": 0, "model": 77, "sizes": (4,)}, 145003, "no model has the id 77"),
    ({"batch": 3}, 145013, "no gear of model 1"),
    ({"batch": 2}, 0, None),
]
HW_ORDER = [
    ({"dataset": 0, "size": (0, 0), "index": 9, "model": 77}, 100000, "the dataset is null"),
    ({"size": (0, 8), "index": 9, "model": 77}, 100000, "must be at least 1"),
    ({"size": (8, 0), "index": 9, "model": 77}, 100000, "must be at least 1"),
    ({"size": (7, 8), "index": 1, "model": 77, "sizes": (8,)}, 100000, "buffer 1: the dataset has 1"),
    ({"size": (7, 8), "index": 0, "model": 77, "sizes": (0,)}, 100000, "the address of buffer 0 is null"),
    ({"size": (7, 8), "index": 0, "model": 77, "sizes": (7,)}, 145012, "7 bytes, 8 are needed"),
    ({"size": (7, 8), "index": 0, "model": 77, "sizes": (8,)}, 145003, "no model has the id 77"),
    ({"size": (8, 16)}, 145013, "no gear of model 1"),
    ({"size": (16, 8)}, 0, None),
]
DIMS_ORDER = [
    ({"dataset": 0, "dims": dims(), "index": 9, "model": 77}, 100000, "the dataset is null"),
    ({"dims": dims(), "index": 1, "model": 77, "sizes": (8,)}, 100000, "buffer 1: the dataset has 1"),
    ({"dims": dims(), "index": 0, "model": 77, "sizes": (0,)}, 100000, "the address of buffer 0 is null"),
    ({"dims": dims(), "model": 77}, 100000, "dims without values"),
    ({"dims": dims(2), "model": 77}, 145003, "no model has the id 77"),
    ({"dims": dims(9, 9, 9), "index": 0, "sizes": (4,)}, 145012, "3 values where the inputs have 4 axes"),
    ({"dims": dims(9, 9, 9, 9), "index": 0, "sizes": (4,)}, 145012, "a fixed axis is 3, given 9"),
    ({"dims": dims(9, 9, 9, 3), "index": 0, "sizes": (4,)}, 145013, "no gear of model 1"),
    ({"dims": dims(2, 5, 2, 3), "index": 0, "sizes": (11,)}, 145012, "11 bytes, 12 are needed"),
    ({"dims": dims(2, 5, 2, 3)}, 0, None),
]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (kind, row)
        for kind, rows in (("batch", BATCH_ORDER), ("image", HW_ORDER), ("dims", DIMS_ORDER))
        for row in range(len(rows))
    ],
)
def test_the_order_of_a_gear_sets_checks(kind, row, bench):
    client = bench(kind)
    arguments, code, text = {"batch": BATCH_ORDER, "image": HW_ORDER, "dims": DIMS_ORDER}[kind][row]
    arguments = dict(arguments)
    if "sizes" in arguments:
        arguments["dataset"] = dataset(*arguments.pop("sizes"))
    if kind == "batch":
        assert client.set_batch(arguments.pop("batch"), **arguments) == code
    elif kind == "image":
        assert client.set_hw(*arguments.pop("size"), **arguments) == code
    else:
        assert client.set_dims(arguments.pop("dims"), **arguments) == code
    if text is None:
        assert acl.get_recent_err_msg() is None
    else:
        assert text in last_message()


@pytest.mark.parametrize(
    "wrong",
    [
        None, [2, 5, 2, 3], 4, {"dimCount": 4}, {"dimCount": 4, "dims": (2, 5, 2, 3)}, {"dimCount": 4, "dims": None},
        {"dimCount": 4, "dims": [2, 5, 2, 3.0]}, {"dimCount": 4, "dims": [2, 5, 2, np.int64(3)]},
        {"dimCount": 5, "dims": [2, 5, 2, 3]}, {"dimCount": -1, "dims": [2, 5, 2, 3, 9]}, {"dimCount": None, "dims": [2]},
        {"dimCount": 1, "dims": [2, None]},
    ],
)  # fmt: skip
def test_dims_of_the_wrong_form_are_a_type_error_before_anything_else(wrong, bench):
    client = bench("dims")
    with pytest.raises(TypeError, match=r"^acl\.mdl\.set_input_dynamic_dims args parse failed!$"):
        client.set_dims(wrong, dataset=0, model=77)


@pytest.mark.parametrize(
    "given", [dims(2, 5, 2, 3), {**dims(2, 5, 2, 3), "name": "x"}, {"dimCount": 4, "dims": [2, 5, 2, 3, 7]}]
)
def test_dims_of_the_right_form(given, bench):
    assert bench("dims").set_dims(given) == 0


def test_dims_without_dim_count_in_tolerant_mode(rule_files):
    start(strict=False)
    with pytest.raises(SystemError, match="dimCount"):
        Bench(rule_files["dims"]).set_dims({"dims": [2, 5, 2, 3]})
    assert [violation.rule for violation in testing.ledger().violations] == ["dims without dimCount"]


# 3.3: what a set leaves on the dataset. The mark shows in execute: it switches the check of the sizes off.


def checks_sizes(client):
    """Whether execute still checks them: the output's buffer is said to be 8 bytes long."""
    client.fill()
    client.shorten(client.outputs, 0, 8)
    code = client.execute()
    assert code in (0, 500002)
    return code == 500002


@pytest.mark.parametrize(
    ("failing", "code", "marked"),
    [
        (lambda c: c.set_batch(0), 100000, False),
        (lambda c: c.set_batch(2, index=9), 100000, False),
        (lambda c: (c.shorten(c.inputs, 1, 3), c.set_batch(2))[1], 145012, True),
        (lambda c: c.set_batch(2, model=77), 145003, True),
        (lambda c: c.set_batch(3), 145013, True),
        (lambda c: c.set_hw(2, 2), 145012, True),
        (lambda c: c.set_dims(dims(3, 6)), 145013, False),
    ],
)
def test_what_a_failed_set_leaves_on_the_dataset(failing, code, marked, rule_files):
    start(strict=False)
    client = Bench(rule_files["batch"])
    assert failing(client) == code
    client.shorten(client.inputs, 1, 4)
    assert checks_sizes(client) is not marked


@pytest.mark.parametrize(
    ("failing", "code", "marked"),
    [
        (lambda c: c.set_dims(dims()), 100000, True),
        (lambda c: c.set_dims(dims(2, 5, 2, 3), index=9), 100000, True),
        (lambda c: c.set_dims(dims(2, 5)), 145012, False),
        (lambda c: c.set_dims(dims(2, 5, 2, 4)), 145012, False),
        (lambda c: c.set_dims(dims(3, 5, 2, 3)), 145013, False),
        (lambda c: c.set_dims(dims(2, 5, 2, 3), model=77), 145003, False),
        (lambda c: c.set_dims(dims(2, 5, 2, 3)), 0, True),
    ],
)
def test_a_failed_dims_set_clears_the_mark(failing, code, marked, rule_files):
    start(strict=False)
    client = Bench(rule_files["dims"])
    assert client.set_dims(dims(2, 5, 2, 3)) == 0
    assert failing(client) == code
    assert checks_sizes(client) is not marked


@pytest.mark.parametrize(
    "failing", [lambda c: c.set_dims(dims(3, 5, 2, 3)), lambda c: c.set_batch(3), lambda c: c.set_hw(2, 2)]
)
def test_executing_after_a_failed_set_is_named(failing, bench):
    client = bench("dims")
    client.fill()
    assert client.set_dims(dims(2, 5, 2, 3)) == 0
    assert failing(client) == 145013
    with pytest.raises(Violation, match=r"failed gear set.*set_\w+\(.*\) failed"):
        client.execute()
    assert client.set_dims(dims(2, 5, 2, 3)) == 0
    assert client.execute() == 0


@pytest.mark.parametrize(
    ("kind", "sets"),
    [
        ("batch", lambda c: [c.set_hw(2, 2), c.set_dims(dims(2, 6))]),
        ("image", lambda c: [c.set_batch(8), c.set_dims(dims(1, 3, 8, 8))]),
        ("dims", lambda c: [c.set_batch(2), c.set_hw(2, 5)]),
        ("range", lambda c: [c.set_batch(2), c.set_dims(dims(2, 6))]),
        ("static", lambda c: [c.set_batch(2), c.set_hw(2, 3), c.set_dims(dims(2, 3, 2, 3))]),
    ],
)
def test_the_wrong_kind_answers_145013(kind, sets, bench):
    client = bench(kind)
    long = dataset(64)
    client.inputs, client.gear = long, 0
    assert set(sets(client)) == {145013}


def test_a_gear_is_kept_in_the_model_id_not_in_the_dataset(bench):
    client = bench("batch")
    other = dataset(8, 4)
    assert client.set_batch(2) == 0
    assert client.set_batch(1, dataset=other) == 0
    assert mdl.get_cur_output_dims(client.desc, 0)[0]["dims"] == [1, 4]
    client.fill()
    assert client.execute() == 0
    assert testing.ledger().launches == {"batch": {"2": 1}}


def test_a_gear_of_another_model_id_is_not_this_ones(bench):
    first, second = bench("batch"), bench("batch")
    assert first.set_batch(2) == 0
    assert mdl.get_cur_output_dims(second.desc, 0)[0]["dims"] == [40, 4]


def test_a_gear_set_into_host_memory_is_named(bench):
    client = bench("batch")
    buffer = mdl.get_dataset_buffer(client.inputs, 1)
    acl.update_data_buffer(buffer, rt.malloc_host(64)[0], 4)
    with pytest.raises(Violation, match="host pointer"):
        client.set_batch(2)


# 3.5


def test_a_model_of_another_device_is_refused(rule_files):
    start(devices=2)
    client = Bench(rule_files["static"])
    rt.set_device(1)
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 107003
    rt.set_device(0)
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0


def test_the_order_of_executes_checks(bench):
    client = bench("static")
    few = dataset(24)
    for execute in (mdl.execute, lambda *a: mdl.execute_async(*a, 0), lambda *a: mdl.execute_v2(*a, 0, 0)):
        assert execute(77, 0, few) == 100000
        assert execute(77, few, 0) == 100000
        assert execute(77, few, few) == 145003
        assert execute(client.model, few, client.outputs) == 145000
        assert execute(client.model, client.inputs, dataset(24, 24)) == 145000
        assert execute(client.model, dataset(24, 24, 24), client.outputs) == 145000
    assert execute(client.model, client.inputs, client.outputs) == 0, "no refusal has decided the mode"


@pytest.mark.parametrize("place", ["input 1", "output 0"])
@pytest.mark.parametrize(("missing", "code"), [(0, 0), (64, 0), (65, 500002)])
def test_sizes_are_checked_with_64_bytes_of_slack(place, missing, code, tmp_path):
    start(strict=False)
    big = add2()
    for value in (*big.graph.input, *big.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 50
    client = Bench(convert(tmp_path, big))
    client.fill()
    which, index = (client.inputs, 1) if place == "input 1" else (client.outputs, 0)
    client.shorten(which, index, 600 - missing)
    assert client.execute() == code
    if code:
        assert last_message().startswith(f"E13025: acl.mdl.execute: {place} has {600 - missing} bytes, the model needs 600")


def test_a_null_output_is_not_too_short(tmp_path):
    start()
    big = add2()
    for value in (*big.graph.input, *big.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 50
    client = Bench(convert(tmp_path, big))
    client.fill()
    buffer = mdl.get_dataset_buffer(client.outputs, 0)
    acl.update_data_buffer(buffer, 0, 0)
    assert client.execute() == 0
    assert acl.get_data_buffer_size(buffer) == 600


def test_bigger_buffers_are_fine(bench):
    client = bench("static")
    assert mdl.execute(client.model, dataset(500, 500), dataset(500)) == 0


@pytest.mark.parametrize("index", [0, 1])
def test_a_null_input_is_refused(index, bench):
    client = bench("static")
    client.fill()
    assert acl.update_data_buffer(mdl.get_dataset_buffer(client.inputs, index), 0, 24) == 0
    assert client.execute() == 100000
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 100000
    assert "the address of input" in last_message()


def test_a_null_output_is_allocated_by_execute_only(bench):
    client = bench("static")
    client.fill()
    buffer = mdl.get_dataset_buffer(client.outputs, 0)
    acl.update_data_buffer(buffer, 0, 0)
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 100000
    assert acl.get_data_buffer_addr(buffer) == 0
    free = rt.get_mem_info(0)[0]
    assert client.execute() == 0
    assert acl.get_data_buffer_size(buffer) == 24
    assert rt.get_mem_info(0)[0] == free - 64, "24 bytes, rounded up to 32, and 32 more"
    assert rt.free(acl.get_data_buffer_addr(buffer)) == 0


@pytest.mark.parametrize("first", ["execute", "execute_async"])
def test_a_model_id_is_used_in_one_mode(first, bench):
    client = bench("static")
    client.fill()
    calls = {
        "execute": client.execute,
        "execute_async": lambda: mdl.execute_async(client.model, client.inputs, client.outputs, 0),
    }
    assert calls.pop(first)() == 0
    assert rt.synchronize_stream(0) == 0
    assert next(iter(calls.values()))() == 500002
    assert next(iter(calls)) in last_message()


@pytest.mark.parametrize(("rows", "code"), [(1, 145000), (2, 0), (8, 0), (9, 145000)])
def test_a_shape_range_includes_its_bounds(rows, code, bench):
    client = bench("range")
    client.fill()
    desc = acl.create_tensor_desc(0, [rows, 6], 2)
    assert mdl.set_dataset_tensor_desc(client.inputs, desc, 0)[1] == 0
    assert client.execute() == code


@pytest.mark.parametrize("given", [[4], [4, 6, 1], [4, 5]])
def test_a_shape_that_is_not_in_the_range(given, bench):
    client = bench("range")
    client.fill()
    mdl.set_dataset_tensor_desc(client.inputs, acl.create_tensor_desc(0, given, 2), 0)
    assert client.execute() == 145000


def test_buffers_of_a_shape_range_need_hold_the_shape_at_hand_only(bench):
    client = bench("range")
    client.shorten(client.inputs, 0, 3 * 6 * 4)
    client.shorten(client.outputs, 0, 3 * 4 * 4)
    client.fill()
    mdl.set_dataset_tensor_desc(client.inputs, acl.create_tensor_desc(0, [3, 6], 2), 0)
    assert client.execute() == 0
    client.shorten(client.outputs, 0, 3 * 4 * 4 - 1)
    with pytest.raises(Violation, match="short buffer"):
        client.execute()


def test_unloading_after_the_work_is_synchronised(bench):
    client = bench("static")
    client.fill()
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0
    assert rt.synchronize_stream(0) == 0
    assert mdl.unload(client.model) == 0
    assert client.execute() == 145003


def test_unloading_before_that_runs_the_work_first_in_tolerant_mode(rule_files):
    start(strict=False)
    client = Bench(rule_files["static"])
    client.fill()
    assert mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0
    assert mdl.unload(client.model) == 0
    assert testing.ledger().launches == {"static": {"static": 1}}
    assert [violation.rule for violation in testing.ledger().violations] == ["unload while in use"]


def test_execute_holds_its_context_to_account(bench):
    client = bench("static")
    client.fill()
    thread_codes = []

    def other():
        thread_codes.append(client.execute())
        rt.set_device(0)
        thread_codes.append(client.execute())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(30)
    assert thread_codes == [107002, 0], "no context; then the one that loaded it"


@pytest.mark.parametrize("queued", ["writes the input", "reads the output"])
def test_execute_beside_queued_work_on_its_buffers_is_named(queued, bench):
    client = bench("static")
    client.fill()
    host = rt.malloc_host(24)[0]
    if queued == "writes the input":
        block = acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.inputs, 1))
        assert rt.memcpy_async(block, 24, host, 24, 1, 0) == 0
    else:
        block = acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.outputs, 0))
        assert rt.memcpy_async(host, 24, block, 24, 2, 0) == 0
    with pytest.raises(Violation, match="execute"):
        client.execute()
    assert rt.synchronize_stream(0) == 0
    assert client.execute() == 0


def test_a_gear_written_by_hand_that_is_none(rule_files):
    start(strict=False)
    client = Bench(rule_files["batch"])
    client.fill()
    assert client.set_batch(2) == 0
    address = acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.inputs, 1))
    assert rt.memset(address, 4, 7, 4) == 0
    assert client.execute() == 0
    assert [violation.rule for violation in testing.ledger().violations] == ["gear input written", "no gear"]
    assert testing.ledger().launches == {"batch": {"40": 1}}


@pytest.mark.parametrize("place", ["output", "gear"])
def test_host_memory_in_a_dataset_is_named(place, bench):
    client = bench("batch")
    client.fill()
    assert client.set_batch(2) == 0
    which, index = (client.outputs, 0) if place == "output" else (client.inputs, 1)
    buffer = mdl.get_dataset_buffer(which, index)
    acl.update_data_buffer(buffer, rt.malloc_host(1000)[0], acl.get_data_buffer_size(buffer))
    with pytest.raises(Violation, match="host pointer"):
        client.execute()


def test_bools_are_whatever_is_not_zero(tmp_path):
    start()
    model = build([helper.make_node("Not", ["x"], ["y"])], [("x", 9, [3])], [("y", 9, [3])])
    client = Bench(convert(tmp_path, model))
    data = bytes([0, 1, 7])
    address = acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.inputs, 0))
    assert rt.memcpy(address, 3, acl.util.bytes_to_ptr(data), 3, 1) == 0
    assert client.execute() == 0
    host = rt.malloc_host(3)[0]
    assert rt.memcpy(host, 3, acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.outputs, 0)), 3, 2) == 0
    assert acl.util.ptr_to_bytes(host, 3) == bytes([1, 0, 0])


def test_each_output_is_shown_at_the_gear_that_is_largest_for_it(tmp_path):
    start()
    client = Bench(convert(tmp_path, pair(), "--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,50,2;4,7,4"))
    assert mdl.get_output_dims(client.desc, 0)[0]["dims"] == [4, 3]
    assert mdl.get_output_size_by_index(client.desc, 0) == 4 * 3 * 4
    assert mdl.get_input_size_by_index(client.desc, 1) == 2 * 50 * 4


def test_events_that_order_two_executions_of_a_model(bench):
    client = bench("static")
    client.fill()
    streams = [rt.create_stream()[0] for _ in range(3)]

    def tie(before, after):
        event = rt.create_event()[0]
        assert [rt.record_event(event, before), rt.stream_wait_event(after, event)] == [0, 0]

    def queue(stream):
        return mdl.execute_async(client.model, client.inputs, client.outputs, stream)

    assert queue(streams[0]) == 0
    tie(streams[0], streams[1])
    tie(streams[1], streams[2])
    assert queue(streams[2]) == 0, "ordered through a stream between"
    with pytest.raises(Violation, match="one model on two streams"):
        queue(streams[0])


def test_an_event_recorded_too_early_orders_nothing(bench):
    client = bench("static")
    client.fill()
    first, second = (rt.create_stream()[0] for _ in range(2))
    event = rt.create_event()[0]
    assert rt.record_event(event, first) == 0
    assert mdl.execute_async(client.model, client.inputs, client.outputs, first) == 0
    assert rt.stream_wait_event(second, event) == 0
    with pytest.raises(Violation, match="one model on two streams"):
        mdl.execute_async(client.model, client.inputs, client.outputs, second)


def test_a_stream_between_orders_only_what_it_was_told_before_its_event(bench):
    client = bench("static")
    client.fill()
    first, between, last = (rt.create_stream()[0] for _ in range(3))
    early, late = (rt.create_event()[0] for _ in range(2))
    assert mdl.execute_async(client.model, client.inputs, client.outputs, first) == 0
    assert rt.record_event(late, first) == 0
    assert rt.record_event(early, between) == 0
    assert rt.stream_wait_event(between, late) == 0
    assert rt.stream_wait_event(last, early) == 0
    with pytest.raises(Violation, match="one model on two streams"):
        mdl.execute_async(client.model, client.inputs, client.outputs, last)


def test_execute_may_read_what_queued_work_reads(bench):
    client = bench("static")
    client.fill()
    block = acl.get_data_buffer_addr(mdl.get_dataset_buffer(client.inputs, 0))
    assert rt.memcpy_async(rt.malloc_host(24)[0], 24, block, 24, 2, 0) == 0
    assert client.execute() == 0


def test_execute_v2_takes_its_own_config_only(bench):
    client = bench("static")
    client.fill()
    with pytest.raises(Violation, match="wrong handle"):
        mdl.execute_v2(client.model, client.inputs, client.outputs, 0, client.desc)
    assert mdl.execute_v2(client.model, client.inputs, client.outputs, 0, mdl.create_exec_config_handle()) == 0


# 1.6: what heads a message


MESSAGES = [
    (lambda: rt.set_device(9), 107001, "EH0001: acl.rt.set_device: device 9: this machine has 1"),
    (lambda: rt.set_context(0), 100000, "EH0002: acl.rt.set_context: the context is null"),
    (lambda: rt.destroy_context(0), 100000, "EH0002: acl.rt.destroy_context: the context is null"),
    (lambda: rt.destroy_stream(0), 100000, "EH0002: acl.rt.destroy_stream: the stream is null"),
    (lambda: rt.free(0), 100000, "EH0002: acl.rt.free: the pointer to free is null"),
    (lambda: rt.free_host(0), 100000, "EH0002: acl.rt.free_host: the pointer to free is null"),
    (lambda: rt.memcpy(0, 1, 1, 1, 1), 100000, "EH0002: acl.rt.memcpy: dst is null"),
    (lambda: rt.memcpy(1, 1, 0, 1, 1), 100000, "EH0002: acl.rt.memcpy: src is null"),
    (lambda: rt.memset(0, 1, 1, 1), 100000, "EH0002: acl.rt.memset: the pointer is null"),
    (lambda: rt.destroy_event(0), 100000, "EH0002: acl.rt.destroy_event: the event is null"),
    (lambda: rt.malloc(0, 0), 100000, "EH0001: acl.rt.malloc: malloc of 0 bytes"),
    (lambda: acl.destroy_data_buffer(0), 100000, "EH0002: acl.destroy_data_buffer: the data buffer is null"),
    (lambda: acl.update_data_buffer(0, 1, 1), 100000, "EH0002: acl.update_data_buffer: the data buffer is null"),
    (lambda: acl.get_tensor_desc_size(0), 100000, "EH0002: acl.get_tensor_desc_size: the tensor desc is null"),
    (lambda: mdl.get_num_inputs(0), 100000, "EH0002: acl.mdl.get_num_inputs: the model desc is null"),
    (lambda: mdl.destroy_desc(0), 100000, "EH0002: acl.mdl.destroy_desc: the model desc is null"),
    (lambda: mdl.destroy_dataset(0), 100000, "EH0002: acl.mdl.destroy_dataset: the dataset is null"),
    (lambda: mdl.get_dataset_num_buffers(0), 100000, "EH0002: acl.mdl.get_dataset_num_buffers: the dataset is null"),
    (lambda: mdl.execute(1, 0, 0), 100000, "EH0002: acl.mdl.execute: the dataset is null"),
    (lambda: mdl.add_dataset_buffer(0, 1), 100000, "EH0002: the dataset or the data buffer is null"),
    (lambda: mdl.set_dataset_tensor_desc(0, 1, 0), 100000, "EH0002: the dataset or the tensor desc is null"),
    (lambda: mdl.load_from_mem(0, 1), 100000, "EH0002: acl.mdl.load_from_mem: the address of a model is null"),
    (lambda: mdl.set_config_opt(0, 1, 1), 100000, "EH0002: acl.mdl.set_config_opt: the config handle is null"),
    (lambda: mdl.load_with_config(0), 100000, "EH0002: acl.mdl.load_with_config: the config handle is null"),
    (lambda: mdl.set_exec_config_opt(0, 1, 1), 100000, "EH0002: acl.mdl.set_exec_config_opt: the execution config is null"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(MESSAGES)))
def test_messages(row):
    start()
    call, code, text = MESSAGES[row]
    call()
    assert acl.get_recent_err_msg() == f"{text} (error code {code})"
    assert acl.get_recent_err_msg() is None, "read once"


def test_a_name_with_null_in_it_is_no_null_pointer(rule_files):
    start()
    mdl.load_from_file("/dev/null/model.om")
    assert last_message().startswith("EH0001: acl.mdl.load_from_file: ")
    desc = mdl.create_desc()
    mdl.get_desc_from_file(desc, str(rule_files["static"]))
    mdl.get_input_index_by_name(desc, "null")
    assert last_message() == "EH0001: acl.mdl.get_input_index_by_name: no input is named 'null' (error code 100000)"


# Functions whose answer has no room for a code: the thread's last error tells it.

SILENT = [
    (lambda: acl.get_tensor_desc_size(0), 100000),
    (lambda: acl.get_tensor_desc_type(0), 100000),
    (lambda: acl.get_tensor_desc_dim(acl.create_tensor_desc(0, [1], 2), 1), 100000),
    (lambda: mdl.get_num_inputs(0), 100000),
    (lambda: mdl.get_num_outputs(0), 100000),
    (lambda: mdl.get_input_size_by_index(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_output_size_by_index(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_input_name_by_index(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_output_name_by_index(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_input_data_type(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_output_format(mdl.create_desc(), 0), 100000),
    (lambda: mdl.get_tensor_real_name(0, "x"), 100000),
    (lambda: mdl.get_op_attr(0, "x", "y"), 100000),
    (lambda: mdl.get_dataset_num_buffers(0), 100000),
    (lambda: mdl.get_dataset_buffer(0, 0), 100000),
    (lambda: mdl.get_dataset_buffer(mdl.create_dataset(), 0), 100000),
    (lambda: mdl.get_dataset_tensor_desc(0, 0), 100000),
    (lambda: mdl.get_dataset_tensor_desc(mdl.create_dataset(), 0), 0),
    (lambda: acl.get_data_buffer_addr(0), 0),
    (lambda: acl.get_data_buffer_size(0), 0),
    (lambda: acl.destroy_tensor_desc(0), 0),
]


@pytest.mark.parametrize("row", range(len(SILENT)))
def test_the_last_error_of_functions_without_a_code(row):
    call, code = SILENT[row]
    call()
    assert rt.get_last_error(0) == code


# 1.1, 1.5, 3.1, 7.9: tensor descs without a handle, and codes of tolerant mode


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (lambda: acl.get_tensor_desc_size(0), 0),
        (lambda: acl.get_tensor_desc_type(0), -1),
        (lambda: acl.get_tensor_desc_format(0), -1),
        (lambda: acl.get_tensor_desc_num_dims(0), 0),
        (lambda: acl.get_tensor_desc_element_count(0), 0),
        (lambda: acl.get_tensor_desc_dim(0, 0), -1),
        (lambda: acl.get_tensor_desc_dim_v2(0, 0), (0, 100000)),
        (lambda: acl.get_tensor_desc_dim(acl.create_tensor_desc(0, [5], 2), 1), -1),
        (lambda: acl.get_tensor_desc_dim(acl.create_tensor_desc(0, [5], 2), 0), 5),
        (lambda: acl.get_tensor_desc_element_count(acl.create_tensor_desc(0, [], 2)), 1),
        (lambda: acl.get_tensor_desc_size(acl.create_tensor_desc(999, [3], 2)), 24),
        (lambda: acl.set_tensor_desc_name(0, "x"), None),
        (lambda: acl.destroy_tensor_desc(0), None),
    ],
)
def test_tensor_descs(query, expected):
    assert query() == expected


def joined_thread():
    ident, _ = acl.util.start_thread(lambda: None, None)
    assert acl.util.stop_thread(ident) == 0
    return ident


TOLERANT = [
    (lambda: rt.free(12345), 107000, "bad free"),
    (lambda: rt.free(rt.malloc(8, 0)[0] + 1), 107000, "bad free"),
    (lambda: rt.free(rt.malloc_host(8)[0]), 107000, "bad free"),
    (lambda: rt.free_host(12345), 107000, "bad free"),
    (lambda: [rt.free(block) for block in [rt.malloc(8, 0)[0]] * 2][1], 107000, "double free"),
    (lambda: [rt.free_host(block) for block in [rt.malloc_host(8)[0]] * 2][1], 107000, "double free"),
    (lambda: acl.util.stop_thread(12345), 107000, "stop_thread"),
    (lambda: acl.util.stop_thread(joined_thread()), 107000, "stop_thread"),
    (lambda: acl.util.ptr_to_bytes(rt.malloc(8, 0)[0], 8), b"", "device pointer"),
    (lambda: rt.synchronize_stream(STALE), 107017, "unknown handle"),
    (lambda: rt.destroy_context(STALE), 107002, "unknown handle"),
    (lambda: rt.destroy_event(STALE), 107017, "unknown handle"),
    (lambda: acl.destroy_data_buffer(STALE), 100000, "unknown handle"),
    (lambda: acl.get_data_buffer_addr(STALE), 0, "unknown handle"),
    (lambda: mdl.get_input_dims(STALE, 0), ({}, 100000), "unknown handle"),
    (lambda: mdl.execute(1, STALE, STALE), 145003, None),
    (lambda: mdl.destroy_dataset(STALE), 100000, "unknown handle"),
]


@pytest.mark.parametrize("row", range(len(TOLERANT)))
def test_what_tolerant_mode_answers(row):
    start(strict=False)
    call, expected, rule = TOLERANT[row]
    assert call() == expected
    assert [violation.rule for violation in testing.ledger().violations] == ([] if rule is None else [rule])
