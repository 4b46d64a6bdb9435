from __future__ import annotations

import dataclasses
import os
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

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
from fuzz_om import fuzzing


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


def test_mutations_never_crash():
    """A few hundred of what `make fuzz` does ten thousand of."""
    answers, failures = fuzzing.survey(fuzz_om.read_and_run, range(400))
    assert failures == []
    assert {"145006", "507011", "ran"} <= set(answers) <= {"145006", "145002", "507011", "ran"}
    assert answers.total() == 400


def planted(seed):
    """A reader with a bug of each kind."""
    if seed == 3:
        raise KeyError("an exception that is no answer")
    if seed == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 7:
        time.sleep(60)
    if seed == 9:
        bytearray(4 << 30)
    if seed == 11:
        os._exit(4)
    return "ran"


def test_the_fuzzer_sees_what_it_is_for(capfd):
    done = []
    answers, failures = fuzzing.survey(
        planted, range(2, 13), seconds_each=0.5, progress=lambda count, failure: done.append((count, failure))
    )
    assert [seed for seed, _ in failures] == [3, 5, 7, 9, 11]
    assert [text for _, text in failures] == [
        "KeyError: 'an exception that is no answer'", "killed the process: SIGSEGV", "took more than 0.5 s", "MemoryError: ",
        "killed the process: exit status 4",
    ]  # fmt: skip
    assert answers == {"ran": 6, "failed": 2}
    assert [count for count, _ in done] == list(range(1, 12))
    assert done[3][1] == "seed 5: killed the process: SIGSEGV"


def test_reading_that_takes_memory_is_a_failure(monkeypatch):
    peaks = iter([1000, 1000 + (fuzzing.BOMB_BYTES >> 10) + 1024])
    monkeypatch.setattr(fuzzing.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=next(peaks)))
    with pytest.raises(MemoryError, match=r"reading [0-9]+ bytes took [0-9]+ bytes"):
        fuzz_om.read_and_run(1)


def test_the_fuzzers_exit_status(monkeypatch, capsys):
    for failures, answers, status in [([], {"ran": 1}, 0), ([(1, "x")], {"ran": 1}, 1), ([], {"145006": 9}, 1)]:
        monkeypatch.setattr(fuzzing, "survey", lambda *_, f=failures, a=answers, **__: (Counter(a), f))
        assert fuzzing.main(fuzz_om.read_and_run, "", ["--mutations", "9"]) == status
    assert "9 mutations in 0 s: 145006 9; 0 failures" in capsys.readouterr().out
