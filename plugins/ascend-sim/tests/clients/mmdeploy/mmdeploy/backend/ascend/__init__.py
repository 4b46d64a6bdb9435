"""`wrapper` and `onnx2ascend` are the repository's own files."""

import os
from pathlib import Path

__path__.append(str(Path(os.environ["ACL_SIM_CLIENTS"], "mmdeploy/mmdeploy/backend/ascend")))
