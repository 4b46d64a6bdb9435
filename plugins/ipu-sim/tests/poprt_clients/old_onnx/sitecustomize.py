"""`onnx.mapping`, which model_fusion/compile.py imports and onnx dropped in 1.19."""

import sys
import types

import onnx

mapping = types.ModuleType("onnx.mapping")
mapping.TENSOR_TYPE_TO_NP_TYPE = {kind: onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in (1, 7, 10)}
sys.modules["onnx.mapping"] = onnx.mapping = mapping
