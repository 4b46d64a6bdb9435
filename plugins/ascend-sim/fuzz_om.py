"""Feed damaged and hostile model files to the reader: `python fuzz_om.py [--mutations 20000] [--seed 0] [--run]`.

Every mutant must either load or be refused with 145002 or 145006; anything else is printed with its seed, and the exit
status is 1. With --run what loads is executed, too, where the vendor's 507011 is also right. Memory is limited to
`--memory-gb`, so that an allocation bomb shows as a MemoryError.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acl_sim import _om
from acl_sim._aipp import AippConfig
from acl_sim._compute import NUMPY_TYPES, ComputeError, Program
from acl_sim._models import inputs_of, outputs_of
from acl_sim._om import GearKind, Model, OmError, Tensor

_INTERESTING = (0, 1, -1, 2, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**46, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400)
_RUN_BYTES = 1 << 24  # larger inputs are left alone: they are legal, only slow


def example() -> Model:
    """A small model with everything in its header that a header can hold."""
    weight = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["img"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["h"]),
        helper.make_node("Add", ["h", "x"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "example",
        [
            helper.make_tensor_value_info("img", TensorProto.FLOAT, ["n", 3, 4, 4]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model(
        name="example",
        inputs=(Tensor("img", 0, 0, (-1, 3, 4, 4), "img"), Tensor("x", 0, 2, (-1, 2), "x")),
        outputs=(Tensor("Add_3:0:y", 0, 2, (-1, 2), "y"),),
        gear_kind=GearKind.BATCH,
        gears=((1,), (4,)),
        output_shapes=(((1, 2),), ((4, 2),)),
        shape_order=(0, 1),
        ranges=(),
        precision_mode="force_fp16",
        soc_version="Ascend310P3",
        aipp=(AippConfig(), None),
        weight_bytes=24,
        work_bytes=64,
        flops=(10, 40),
        graph=model.SerializeToString(),
    )


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One mutant: damaged bytes, or a hostile header or graph under a right checksum."""
    kind = rng.randrange(4)
    if kind == 0:
        return _damage(data, rng)
    fields = _om._HEAD.unpack_from(data)
    split = _om.HEAD_BYTES + fields[4]
    text, body = data[_om.HEAD_BYTES : split], data[split:]
    if kind == 1:
        header = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            header = _hostile(header, rng)
        return _om._seal(0, header, body)
    if kind == 2:
        return _om._seal(0, json.loads(text), _damage(body, rng))
    # A right checksum over a head whose claims are wrong, or over a header that is no JSON.
    lengths = [rng.choice(_INTERESTING[:12]) % 2**64, rng.choice(_INTERESTING[:12]) % 2**64]
    if rng.random() < 0.5:
        text = _damage(text, rng) if rng.random() < 0.7 else b"[" * rng.choice([10, 100_000])
        lengths = [len(text), len(body)]
    head: bytes = _om._HEAD.pack(fields[0], fields[1], fields[2], rng.choice([0, 0, 0, 1, 2]), *lengths)
    return head + hashlib.sha256(head + text + body).digest() + text + body


def _damage(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(result) + 1)
        action = rng.randrange(5)
        if action == 0 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del result[at:]
        elif action == 2:
            result[at:at] = rng.randbytes(rng.randint(1, 9))
        elif action == 3:
            del result[at : at + rng.randint(1, 9)]
        elif at < len(result):
            result[at] = rng.choice([0, 0x7F, 0x80, 0xFF])
    return bytes(result)


def _hostile(value: Any, rng: random.Random) -> Any:
    """The header with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.03:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _hostile(value[key], rng)}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        items = list(value)
        if rng.random() < 0.2:
            return items * rng.choice([0, 2, 1000])
        items[at] = _hostile(items[at], rng)
        return items
    makers: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(_INTERESTING[:-1]),
        lambda: rng.choice(_INTERESTING[:-1]),
        lambda: None,
        lambda: True,
        lambda: 1.5,
        lambda: "",
        lambda: "a" * 5000,
        lambda: "\ud800",
        list,
        dict,
        lambda: [[]],
    )
    return rng.choice(makers)()


def attempt(data: bytes, *, run: bool = False) -> str:
    """Read, and load, one mutant; returns what became of it.

    Raises:
        Exception: whatever is none of the answers that the vendor has: a bug.
    """
    try:
        content = _om.parse(data)
        models = content.models if isinstance(content, _om.Bundle) else (content,)
        programs = [Program(model) for model in models]
        for model in models:
            inputs_of(model)
            outputs_of(model)
    except OmError as error:
        return str(error.code)
    if not run:
        return "loaded"
    for model, program in zip(models, programs, strict=True):
        shapes = model.input_shapes(0)
        if any(
            tensor.size_bytes([abs(dim) for dim in shape]) > _RUN_BYTES
            for tensor, shape in zip(model.inputs, shapes, strict=True)
        ):
            continue
        arrays = [
            np.ones([max(dim, 0) for dim in shape], NUMPY_TYPES[tensor.acl_type])
            for tensor, shape in zip(model.inputs, shapes, strict=True)
        ]
        try:
            program.run(arrays)
        except ComputeError:
            return "507011"
    return "ran"


def main() -> int:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="store_true", help="execute what loads")
    parser.add_argument("--memory-gb", type=float, default=8.0)
    options = parser.parse_args()
    limit = int(options.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    data = _om.dump(example())
    if attempt(data, run=True) != "ran":
        raise SystemExit("the example itself does not run")
    answers: Counter[str] = Counter()
    failures = 0
    slowest = 0.0
    for number in range(options.seed, options.seed + options.mutations):
        started = time.perf_counter()
        try:
            answers[attempt(mutate(data, random.Random(number)), run=options.run)] += 1
        except Exception as error:  # that is what the fuzzer looks for
            failures += 1
            print(f"seed {number}: {type(error).__name__}: {str(error)[:200]}")
        slowest = max(slowest, time.perf_counter() - started)
    print(f"{options.mutations} mutations: {dict(answers)}, {failures} failures, slowest {slowest:.3f} s")
    return int(failures > 0 or set(answers) <= {"145006"})


if __name__ == "__main__":
    onnx.defs.has("Add")  # load the operator sets before memory is limited
    sys.exit(main())
