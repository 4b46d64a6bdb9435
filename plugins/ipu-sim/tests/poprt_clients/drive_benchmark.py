"""Calls `run_benchmark` of PopRT's benchmark.py, found in the folder of the first argument, on a small model."""

import ast
import json
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, sys.argv[1])
from benchmark import run_benchmark
from poprt.converter import Converter

generator = np.random.default_rng(0)
weight = generator.standard_normal((16, 8)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
    "small",
    [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 16])],
    [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
    [numpy_helper.from_array(weight, "w")],
)
# The driver's ONNX Runtime reads the model, too: not the newest IR version.
raw = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
precision = sys.argv[2]
model = Converter(input_shape={"x": [4, 16]}, precision=precision).convert(raw)
x = generator.uniform(0, 1, (4, 16)).astype(np.float32)
report = run_benchmark(
    model,
    {"x": x.astype(np.float16 if precision == "fp16" else np.float32)},
    raw_model=raw.SerializeToString(),
    raw_inputs={"x": x},
    compiler_options={"batches_per_step": 64, "stream_buffering_depth": 2, "partials_type": "half"},
)
report.add_attrs(batch_size=4, precision=precision)
assert isinstance(ast.literal_eval(json.dumps(str(report))), str)
print(json.dumps({"mse": getattr(report, "accuracy/mse"), "iteration": report.iteration, "batch_size": report.batch_size}))
