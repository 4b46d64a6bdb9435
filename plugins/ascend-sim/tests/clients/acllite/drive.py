"""Drive acllite: `drive.py MODEL RESULT BATCHES...`, each batch GEAR or GEARxROWS; saves what each call returned.

The rows of call i are those of `np.random.default_rng(i)`. A refused call (None) is saved as an empty array.
"""

import sys

import numpy as np
from acllite_model import AclLiteModel
from acllite_resource import AclLiteResource

model_path, result, *batches = sys.argv[1:]
resource = AclLiteResource(0)
resource.init()
model = AclLiteModel(model_path)
answers = {}
for number, text in enumerate(batches):
    gear, _, rows = text.partition("x")
    x = np.random.default_rng(number).standard_normal((int(rows or gear), 6)).astype(np.float32)
    answer = model._execute_with_dynamic_batch_size([x], int(gear))
    answers[f"y{number}"] = np.zeros(0, np.float32) if answer is None else answer[0]
np.savez(result, **answers)
model.destroy()
