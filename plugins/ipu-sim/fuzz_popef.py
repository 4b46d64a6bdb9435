"""Feed damaged and hostile model files to the reader: `make fuzz`, or `python fuzz_popef.py [--mutations 10000] [--seed 0]`.

Each mutant must be refused with PopefError, or load into a runner, where RuntimeError is also right (it may ask for more IPUs
than there are); what loads is executed, where RuntimeError is right, too. Mutants are of a model whose weights may be updated,
of one whose inputs were merged, then often only in its description, and of fused models, then in one of them. How mutants are
made and attempted is in `plugins/fuzzing.py`; the exit status is 1 if something else happened.
"""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from poprt_sim import runtime, testing
from poprt_sim._names import sHostConcatRunnerConfig
from poprt_sim._popef import _HEAD, PopefError, write_popef
from poprt_sim.compiler import Compiler, CompilerOptions, Executable
from poprt_sim.converter import MFConverter
from poprt_sim.passes import Pass

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fuzzing


def updatable() -> bytes:
    """A file of a model with weights that may be updated."""
    options = CompilerOptions()
    options.constant_weights = False
    return write_popef(Compiler.compile(fuzzing.example_graph(4), None, options).popef)


def merged() -> bytes:
    """A file of a model whose two inputs were merged, with the description."""
    shape = [4, 2]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["x", "z"], ["y"])],
        "merged",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "z")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = Pass.get_pass("apply_host_concat_split", [(TensorProto.FLOAT, shape)]).run(model)
    options = CompilerOptions()
    options.opaque_blobs = {entry.key: entry.value for entry in model.metadata_props}
    return write_popef(Compiler.compile(model, None, options).popef)


def fused() -> bytes:
    """A file of two models."""
    return write_popef(
        Compiler.compile(MFConverter().convert([fuzzing.example_graph(4), fuzzing.example_graph(2)]), None).popef
    )


_UPDATABLE, _MERGED, _FUSED = updatable(), merged(), fused()


def mutant(seed: int) -> bytes:
    """The mutant of a seed."""
    rng = random.Random(seed)
    whose = rng.randrange(8)
    if whose < 5:
        return fuzzing.mutate(_UPDATABLE, _HEAD, rng)
    if whose == 5:
        return fuzzing.mutate(_MERGED, _HEAD, rng)
    header, body = fuzzing.take_apart(_MERGED if whose == 6 else _FUSED, _HEAD)
    if whose == 6:
        ((key, text),) = header["opaque_blobs"]
        described = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            described = fuzzing.hostile(described, rng)
        text = "[" * 100_000 if rng.random() < 0.02 else json.dumps(described)
        return fuzzing.seal(_MERGED, _HEAD, {**header, "opaque_blobs": [[key, text]]}, body)
    first = header["graphs"][0]
    files = [body[:first], body[first:]]
    number = rng.randrange(2)
    files[number] = fuzzing.mutate(files[number], _HEAD, rng)
    if rng.random() < 0.2:
        header = fuzzing.hostile(header, rng)
    else:
        header["graphs"] = [len(file) for file in files]
    return fuzzing.seal(_FUSED, _HEAD, header, b"".join(files))


def attempt(data: bytes, *, run: bool = False) -> str:
    """Read, and load, one mutant; returns what became of it.

    Raises:
        Exception: whatever is not documented: a bug.
    """
    testing.reset(device_time="none")
    try:
        executable = Executable(io.BytesIO(data))
        runners = [_runner(executable)]
        if any(key == sHostConcatRunnerConfig for key, _ in executable.popef.opaque_blobs) and not executable.popef.graphs:
            runners.append(runtime.HostConcatRunner(executable))
    except PopefError:
        return "refused"
    except RuntimeError as error:
        return _documented(error, "not loaded")
    if not run:
        return "loaded"
    answer = "ran"
    for runner in runners:
        for number in range(max(1, len(executable.popef.graphs))):
            answer = _execute(runner, f"graph{number}/" if executable.popef.graphs else "", answer)
    return answer


def _runner(executable: Executable) -> runtime.Runner:
    config = runtime.RuntimeConfig()
    config.validate_io_params = not executable.popef.graphs
    return runtime.Runner(executable, config)


def _execute(runner: runtime.Runner | runtime.HostConcatRunner, prefix: str, answer: str) -> str:
    sides = []
    for descriptors in (runner.get_execute_inputs(), runner.get_execute_outputs()):
        own = [each for each in descriptors if each.name.startswith(prefix)]
        if any(each.size_in_bytes > fuzzing.RUN_BYTES for each in own):
            return answer
        sides.append({each.name: np.ones(each.shape, each.numpy_data_type()) for each in own})
    try:
        runner.execute(*sides)
    except RuntimeError as error:
        return _documented(error, "not run")
    except testing.Violation as error:  # no Exception, which would end the child
        raise AssertionError(f"the request is fine, and was called undefined: {error}") from error
    return answer


def _documented(error: RuntimeError, answer: str) -> str:
    """RuntimeError itself is; its subclasses, RecursionError and NotImplementedError among them, are not."""
    if type(error) is not RuntimeError:
        raise error
    return answer


def read_and_run(seed: int) -> str:
    """Make the mutant of a seed and attempt it.

    Raises:
        MemoryError: reading it took too much.
        Exception: see `attempt`.
    """
    data = mutant(seed)
    answer = fuzzing.read_frugally(attempt, data)
    return attempt(data, run=True) if answer == "loaded" else answer


if __name__ == "__main__":
    for example in (_UPDATABLE, _MERGED, _FUSED):
        if attempt(example, run=True) != "ran":
            raise SystemExit("an example itself does not run")
    sys.exit(fuzzing.main(read_and_run, __doc__))
