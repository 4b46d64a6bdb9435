"""Drive the language-model engine: `drive.py MODEL sync|async RESULT`, three steps; then unload it as its own caller would."""

import sys
import threading

import numpy as np
from config import InferenceConfig
from utils.engine import ACLModel, destroy_resource, init_resource

model_path, mode, result = sys.argv[1:]
answers = {}
done = threading.Event()


def keep(outputs, arguments):
    logits, cache = outputs
    answers.update({f"logits{arguments[1]}": logits, f"cache{arguments[1]}": cache})
    done.set()


context = init_resource(0)
engine = ACLModel(InferenceConfig(model_path), context, keep if mode == "async" else None)
if engine.kv_cache is not None:
    engine.kv_cache[:] = 0
for step in range(3):
    data = [np.array([[step + 1]], np.int64), np.ones((1, 5), np.int64), np.array([[step]], np.int64)]
    if mode == "async":
        done.clear()
        engine.inference_async(data, ["step", step])
        assert done.wait(60), "no callback came"  # the next step overwrites the inputs of this one
        continue
    keep(engine.inference([*data, None] if engine.kv_cache is not None else data), ["step", step])
    if engine.kv_cache is not None:
        engine.kv_cache[0, step] = step + 1  # the caller writes the cache in place, on the device
try:
    engine.unload()
except AttributeError as error:
    print(f"unload: {error}")
destroy_resource(0, context)
np.savez(result, **answers)
