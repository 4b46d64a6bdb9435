"""Drive mmdeploy's wrapper: `drive.py MODEL REQUESTS.npz RESULT.npz`.

REQUESTS holds `<number>:<input>`, RESULT gets `<number>:<output>`, and under `<number>:device:<output>` and
`<number>:device:<input>` the whole buffers as they lie on the device after that request.
"""

import sys

import acl
import numpy as np
import torch
from mmdeploy.backend.ascend.wrapper import AscendWrapper, Error


def on_device(buffer, kind):
    kind = np.dtype(str(kind).rpartition(".")[2])  # PyTorch's own types print as "torch.float32"
    array = np.empty(buffer.size // kind.itemsize, kind)
    assert acl.rt.memcpy(array.ctypes.data, buffer.size, buffer.data, buffer.size, 2) == 0
    return array


model_path, requests, result = sys.argv[1:]
given = np.load(requests)
answers = {}
wrapper = AscendWrapper(model_path)
for number in sorted({name.partition(":")[0] for name in given}):
    inputs = {name.partition(":")[2]: torch.from_numpy(given[name]) for name in given if name.startswith(f"{number}:")}
    try:
        outputs = wrapper(inputs)
    except (RuntimeError, Error) as error:
        print(f"refused: {error}")
        continue
    answers |= {f"{number}:{name}": tensor.numpy() for name, tensor in outputs.items()}
    for bindings, dataset in (
        (wrapper._model_desc.inputs, wrapper._input),
        (wrapper._model_desc.outputs, wrapper._output),
    ):
        for binding in bindings:
            answers[f"{number}:device:{binding.name}"] = on_device(dataset.buffers[binding.index], binding.data_type)
np.savez(result, **answers)
