"""Convert with mmdeploy's own function, which calls `atc`: `convert.py MODEL.onnx FOLDER INPUTS`, INPUTS as JSON."""

import json
import sys

from mmdeploy.backend.ascend.onnx2ascend import from_onnx

from_onnx(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
