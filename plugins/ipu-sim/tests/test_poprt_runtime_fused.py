"""Fused models: one PopEF, several models, one device (contract section 4)."""

import numpy as np
import pytest
from onnx import helper

from poprt_sim import runtime, testing
from poprt_sim._popef import fuse
from poprt_tools import Callers, Compiled, popef_of


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset(device_time="none")
    testing.reset()


def fused():
    zero = {"graph0/X": (4, 2), "graph0/Y": (4, 2)}
    graphs = [
        popef_of([helper.make_node("Add", list(zero), ["graph0/O"])], zero, {"graph0/O": (4, 2)}),
        popef_of([helper.make_node("Add", ["graph1/X"] * 2, ["graph1/O"])], {"graph1/X": (2, 3)}, {"graph1/O": (2, 3)}),
    ]
    return Compiled(fuse("both", graphs))


def runner(**fields):
    config = runtime.RuntimeConfig()
    config.validate_io_params = False
    config.batching_dim = 0
    config.timeout_ns = 300_000
    for name, value in fields.items():
        setattr(config, name, value)
    return runtime.Runner(fused(), config)


def ones(*shape):
    return np.ones(shape, np.float32)


def add(target, rows, **more):
    out = np.zeros((rows, 2), np.float32)
    target.execute({"graph0/X": ones(rows, 2), "graph0/Y": ones(rows, 2) * 2, **more}, {"graph0/O": out})
    assert (out == 3).all()


def double(target, rows):
    out = np.zeros((rows, 3), np.float32)
    target.execute({"graph1/X": ones(rows, 3)}, {"graph1/O": out})
    assert (out == 2).all()


def test_each_call_feeds_one_model_and_the_index_is_filled_in():
    target = runner()
    add(target, 4)
    double(target, 2)
    add(target, 5)
    assert testing.ledger().runs == 4
    assert testing.ledger().flushes == 1


def test_the_index_may_be_given_and_must_be_right():
    target = runner()
    add(target, 4, index=np.array([0], np.uint32))
    with pytest.raises(RuntimeError, match="'index': expected 0, as the inputs are of graph0, got"):
        add(target, 4, index=np.array([1], np.uint32))


def test_with_validation_every_input_is_expected():
    with pytest.raises(
        RuntimeError, match=r"set validate_io_params to False, or every input .* expected: graph0/X, graph0/Y, graph1/X"
    ):
        add(runner(validate_io_params=True), 4)


def test_inputs_of_two_models_in_one_call_are_refused():
    with pytest.raises(RuntimeError, match="expected tensors of one of the fused models: graph0/X, graph0/Y; graph1/X"):
        runner().execute({"graph0/X": ones(4, 2), "graph1/X": ones(2, 3)}, {"graph0/O": ones(4, 2)})
    assert testing.ledger().requests == 0


def test_rows_of_two_models_do_not_share_a_run():
    target = runner()
    callers = Callers([(0, lambda: add(target, 1)), (10, lambda: double(target, 1)), (20, lambda: add(target, 3))])
    callers.run().raise_errors()
    ledger = testing.ledger()
    assert (ledger.runs, ledger.merged_runs, ledger.real_rows, ledger.padded_rows) == (2, 1, 5, 1)
    # The rows of graph0 fill up at 20; then graph1 waits for its own.
    assert callers.ends == [20.0, 320.0, 20.0]
