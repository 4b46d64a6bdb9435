"""Drive AclModel: `drive.py PROGRAM MODEL sync|async RESULT GEARS...`.

Each gear is ROWS,COLUMNS: the model's inputs are x [rows, 3] and m [rows, columns].
"""

import importlib.util
import sys

import numpy as np

program, model_path, mode, result, *gears = sys.argv[1:]
spec = importlib.util.spec_from_file_location("acl_model", program)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

model = module.AclModel(0, model_path, mode == "sync", {}, "key", True)
answers = {}
for number, text in enumerate(gears):
    rows, columns = map(int, text.split(","))
    random = np.random.default_rng(number)
    x = random.standard_normal((rows, 3)).astype(np.float32)
    m = random.integers(-9, 9, (rows, columns), dtype=np.int32)
    dims = [*x.shape, *m.shape]
    y, z = model([x, m], {"name": "", "dimCount": len(dims), "dims": dims})
    answers |= {f"y{number}": y, f"z{number}": z}
np.savez(result, **answers)
