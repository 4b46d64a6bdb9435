"""Tiny models compiled for the simulator, and a way to let several callers run at known virtual times."""

import threading

import numpy as np
import onnx
from onnx import TensorProto, helper

from poprt_sim import testing
from poprt_sim._popef import Popef, TensorInfo

F32 = np.dtype(np.float32)
WAIT_S = 30


class Compiled:
    """Stands in for an Executable: a runner asks for nothing but its `popef`."""

    def __init__(self, popef):
        self.popef = popef


def popef_of(nodes, inputs, outputs, *, dtype=np.float32, initializers=(), anchors=(), name="tiny", **fields):
    """A compiled model with inputs and outputs of one element type, given as name -> shape."""
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(each, onnx_type, shape) for each, shape in inputs.items()],
        [helper.make_tensor_value_info(each, onnx_type, shape) for each, shape in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    values = {
        "batches_per_step": 1,
        "num_io_tiles": 0,
        "num_ipus": 1,
        "ipu_version": "ipu21",
        "flops": 8e3,
        "bytes_moved": 1e3,
        **fields,
    }
    return Popef(
        name=name,
        onnx=model.SerializeToString(),
        inputs=tuple(TensorInfo(each, np.dtype(dtype), tuple(shape)) for each, shape in inputs.items()),
        outputs=tuple(TensorInfo(each, np.dtype(dtype), tuple(shape)) for each, shape in outputs.items()),
        anchors=tuple(anchors),
        **values,
    )


def adder(batch=4, **fields):
    """O = X + Y, each [batch, 2]: the model of the vendor's page."""
    shape = (batch, 2)
    return Compiled(popef_of([helper.make_node("Add", ["X", "Y"], ["O"])], {"X": shape, "Y": shape}, {"O": shape}, **fields))


def doubler(shape=(4, 2), **fields):
    """O = X + X."""
    return Compiled(popef_of([helper.make_node("Add", ["X", "X"], ["O"])], {"X": shape}, {"O": shape}, **fields))


def scaler(batch=4, factor=3.0):
    """O = X * Weight, whose Weight may be updated."""
    weight = helper.make_tensor("Weight", TensorProto.FLOAT, (2,), [factor, factor])
    popef = popef_of(
        [helper.make_node("Mul", ["X", "Weight"], ["O"])],
        {"X": (batch, 2)},
        {"O": (batch, 2)},
        initializers=[weight],
        anchors=[TensorInfo("Weight", F32, (2,))],
    )
    return Compiled(popef)


def rows(count, first=0.0):
    """Arrays for `adder`: inputs of so many distinct rows, outputs full of a mark, and what is expected."""
    x = (first + np.arange(count * 2, dtype=np.float32)).reshape(count, 2)
    y = x * 10 + 1
    return {"X": x, "Y": y}, {"O": np.full((count, 2), -7, np.float32)}, x + y


class Callers:
    """Threads that each wait until a virtual time and then do something; `run` starts and joins them.

    Args:
        plan: pairs of the virtual time after the start, in microseconds, and what to do then.
    """

    def __init__(self, plan):
        self.plan = plan
        self.ends = [None] * len(plan)
        self.errors = [None] * len(plan)

    def run(self):
        threads = [threading.Thread(target=self._body, args=(number,)) for number in range(len(self.plan))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a caller hangs"
        return self

    def _body(self, number):
        delay, action = self.plan[number]
        begin = testing.now_us()
        testing.spend_us(delay)
        try:
            action()
        except BaseException as error:
            self.errors[number] = error
        self.ends[number] = testing.now_us() - begin

    def raise_errors(self):
        for error in self.errors:
            if error is not None:
                raise error
        return self


__all__ = ["WAIT_S", "Callers", "Compiled", "adder", "doubler", "onnx", "popef_of", "rows", "scaler"]
