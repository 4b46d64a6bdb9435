"""Packages with the spellings of each PopRT version, and only those: made for these tests, apart from the simulator.

Their models compute nothing: every output row is twice the row of the first input.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx

DOUBLE = "double (float[rows, 3] x) => (float[rows, 3] y) <float two = {2}> { y = Mul(x, two) }"
VERSIONS = ("1.0.2", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0")


def parse(graph, *, opset=17):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')


class FakePoprt(SimpleNamespace):
    """A package of that version.

    Attributes:
        calls: names of what was called, in order.
        failing: what raises, by name, and what it raises.
        configs: every RuntimeConfig a runner was given.
        alive: runners that exist.
        most_alive: the most that existed at once.
    """

    def __init__(self, version="1.5.0", *, devices=2, hardware="ipu21"):
        super().__init__(__name__="fake_poprt", __version__=version)
        self.calls, self.failing, self.configs, self.options, self.compiled = [], {}, [], [], []
        self.converters = []
        self.alive = self.most_alive = 0
        self.held = 0
        number = tuple(int(part) for part in version.split("."))
        self.utils = SimpleNamespace(get_logger=lambda: "the logger")
        self.converter = SimpleNamespace(Converter=_converter(self, number))
        self.compiler = SimpleNamespace(Compiler=_compiler(self), CompilerOptions=_options(number))
        self.runtime = _runtime(self, number, devices, hardware)

    def called(self, name):
        self.calls.append(name)
        if name in self.failing:
            raise self.failing[name]


def _converter(fake, number):
    class Converter:
        def __init__(self, input_shape=None, precision="fp32", used_passes=(), batch_size=None, disable_progress_bar=False):
            fake.called("Converter")
            assert disable_progress_bar, "nobody asked for one"
            fake.converters.append({"input_shape": input_shape, "precision": precision, "used_passes": list(used_passes)})
            self.shapes = input_shape or {}

        def _convert(self, model):
            fake.called("convert")
            for value in (*model.graph.input, *model.graph.output):
                rows = next(iter(self.shapes.values()), [0])[0]
                for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                    shape = self.shapes.get(value.name)
                    if not dim.HasField("dim_value"):
                        dim.dim_value = shape[axis] if shape else rows
            return model

    if number < (1, 1):

        def convert(self, model, logger):
            assert logger == "the logger"
            return self._convert(model)
    else:

        def convert(self, model):
            return self._convert(model)

    Converter.convert = convert
    return Converter


def _options(number):
    class CompilerOptions:
        def __init__(self):
            self.ipu_version = ""
            self.batches_per_step = 1
            self.num_io_tiles = 0
            self.show_compilation_progress_bar = True

    return CompilerOptions


def _compiler(fake):
    class Compiler:
        @staticmethod
        def compile_and_export(model, outputs, filename, options):
            fake.called("compile_and_export")
            assert isinstance(model, bytes)
            fake.options.append(vars(options))
            graph = onnx.load_model_from_string(model).graph
            ports = {
                side: [
                    [
                        value.name,
                        onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                        [dim.dim_value for dim in value.type.tensor_type.shape.dim],
                    ]
                    for value in values
                ]
                for side, values in (("inputs", graph.input), ("outputs", graph.output))
            }
            assert [name for name, *_ in ports["outputs"]] == outputs
            if "no file" not in fake.failing:
                Path(filename).write_text(json.dumps(ports))

    return Compiler


class DataDesc:
    def __init__(self, name, dtype, shape, weight=False):
        self.name, self.shape, self._dtype = name, shape, np.dtype(dtype)
        self.popef_contains_tensor_data = weight

    def numpy_data_type(self):
        return self._dtype


def _runtime(fake, number, devices, hardware):
    class RuntimeConfig:
        def __init__(self):
            fake.called("RuntimeConfig")
            self._timeout = datetime.timedelta(microseconds=5000) if number < (1, 2) else 10_000_000
            self.batching_dim = 0xFFFFFFFF
            self.validate_io_params = True
            if number >= (1, 3):
                self.replica_id_to_device = {}

        @property
        def timeout_ns(self):
            return self._timeout

        @timeout_ns.setter
        def timeout_ns(self, value):
            if type(value) is not type(self._timeout):
                raise TypeError(f"(): incompatible function arguments: {value!r}")
            self._timeout = value

    class Anyrunner:
        def __init__(self, popef, config):
            fake.called("Runner")
            if not Path(popef).read_text().startswith("{"):
                raise RuntimeError("Cannot read popef file: wrong magic")
            self._ports = json.loads(Path(popef).read_text())
            self.config = config
            fake.configs.append(config)
            fake.alive += 1
            fake.most_alive = max(fake.most_alive, fake.alive)

        def __del__(self):
            if hasattr(self, "config"):
                fake.alive -= 1

        def _described(self, side, *, weights):
            fake.called(side)
            described = [DataDesc(*port) for port in self._ports[side]]
            return described + [DataDesc("w", "float32", [7], True)] * weights

        def execute(self, inputs, outputs):
            fake.called("execute")
            first = inputs[self._ports["inputs"][0][0]]
            for array in outputs.values():
                array[...] = 2 * first

        def _execute_async(self, inputs, outputs):
            fake.called("execute_async")

            def wait():
                fake.called("wait")
                self.execute(inputs, outputs)

            return SimpleNamespace(wait=wait)

    if number < (1, 3):
        Anyrunner.get_model_inputs = lambda self: self._described("inputs", weights=True)
        Anyrunner.get_model_outputs = lambda self: self._described("outputs", weights=False)
        Anyrunner.executeAsync = Anyrunner._execute_async
    else:
        Anyrunner.get_execute_inputs = lambda self: self._described("inputs", weights=False)
        Anyrunner.get_execute_outputs = lambda self: self._described("outputs", weights=False)
        Anyrunner.execute_async = Anyrunner._execute_async

    class Device:
        def __init__(self, index):
            self.index = index
            fake.held += 1

        def __del__(self):
            fake.held -= 1

    class DeviceManager:
        def __init__(self):
            fake.called("DeviceManager")

        def get_num_devices(self):
            fake.called("get_num_devices")
            return devices

        def ipu_hardware_version(self):
            fake.called("ipu_hardware_version")
            if not devices:
                raise RuntimeError("no device found")
            return hardware

        def get_specific_device(self, index):
            fake.called("get_specific_device")
            return Device(index)

    runtime = SimpleNamespace(RuntimeConfig=RuntimeConfig, DeviceManager=DeviceManager)
    if number >= (1, 1):
        runtime.Runner = Anyrunner
    if number < (1, 2):
        runtime.ModelRunner = Anyrunner
    if number >= (1, 3):
        runtime.ReplicaIdToDevice = dict
    return runtime
