"""What the simulators' fuzzers have in common: how a model file is damaged, and how mutants are attempted in child processes.

Both kinds of file, `.om` and `.popef`, are a head that ends in kind, header bytes and body bytes; a SHA-256; a header of JSON;
and a body, an ONNX graph. Mutants are damaged bytes (cut, flipped, inserted), hostile claims in the head, hostile headers and
hostile graphs under a right checksum: deep nesting, huge dimensions, functions that call themselves, weights in other files.

Everything runs in a child process, so that a mutant that kills it (ONNX Runtime and protobuf are native code), or that takes
more than `--seconds-each`, is seen and named. The child's memory is limited to `--memory-gb`. Reading a mutant must not take
more than `BOMB_BYTES` and `BOMB_FACTOR` times its size, beyond what the largest before took: onnx's checker takes ten times
the size of a graph that is all shapes. Failures are printed with their seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_INTERESTING = (0, 1, -1, 2, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**46, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400)
RUN_BYTES = 1 << 24  # larger inputs are left alone: they are legal, only slow
BOMB_BYTES = 256 << 20
BOMB_FACTOR = 16
_BATCH = 2_000  # mutants a child: what leaks in native code does not add up for ever

Attempt = Callable[[int], str]


def example_graph(rows: int | str) -> onnx.ModelProto:
    """A small model that the mutations below know the names of: img [rows, 3, 4, 4] and x [rows, 2] in, y [rows, 2] out."""
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
            helper.make_tensor_value_info("img", TensorProto.FLOAT, [rows, 3, 4, 4]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# Files


def take_apart(data: bytes, head: struct.Struct) -> tuple[Any, bytes]:
    """The header and the body of an undamaged file."""
    start = head.size + hashlib.sha256().digest_size
    split = start + head.unpack_from(data)[-2]
    return json.loads(data[start:split]), data[split:]


def seal(data: bytes, head: struct.Struct, header: Any, body: bytes) -> bytes:
    """A file of the kind of `data`, with another header and body under a right checksum."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return _sealed(head, (*head.unpack_from(data)[:-2], len(text), len(body)), text, body)


def _sealed(head: struct.Struct, fields: tuple[Any, ...], text: bytes, body: bytes) -> bytes:
    packed: bytes = head.pack(*fields)
    return packed + hashlib.sha256(packed + text + body).digest() + text + body


def mutate(data: bytes, head: struct.Struct, rng: random.Random) -> bytes:
    """One mutant of a file: damaged bytes, or a hostile header or graph under a right checksum."""
    kind = rng.choice([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, *[4] * 9, 5])
    if kind == 0:
        return _damage(data, rng)
    header, body = take_apart(data, head)
    if kind == 1:
        for _ in range(rng.randint(1, 3)):
            header = hostile(header, rng)
        return seal(data, head, header, body)
    if kind == 2:
        return seal(data, head, header, _damage(body, rng))
    if kind == 4:
        graph = onnx.load_model_from_string(body)
        for _ in range(rng.choice([1, 1, 2, 3])):
            rng.choice(_GRAPH_MUTATIONS)(graph, rng)
        return seal(data, head, header, graph.SerializeToString())
    if kind == 5:
        # Protobuf merges fields that come twice: this adds to the graph's nodes.
        return seal(data, head, header, body + _field(7, _nested(rng.choice([20, 40, 300, 10_000]))))
    # A right checksum over a head whose claims are wrong, or over a header that is no JSON.
    text = data[head.size + hashlib.sha256().digest_size : len(data) - len(body)]
    lengths = [rng.choice(_INTERESTING[:12]) % 2**64, rng.choice(_INTERESTING[:12]) % 2**64]
    if rng.random() < 0.5:
        text = _damage(text, rng) if rng.random() < 0.7 else b"[" * rng.choice([10, 100_000])
        lengths = [len(text), len(body)]
    return _sealed(head, (*head.unpack_from(data)[:-3], rng.choice([0, 0, 0, 1, 2]), *lengths), text, body)


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


def hostile(value: Any, rng: random.Random) -> Any:
    """The header with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.03:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: hostile(value[key], rng)}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        items = list(value)
        if rng.random() < 0.2:
            factor = rng.choice([0, 2, 1000])
            return items * factor if len(items) < 1 << 14 else items  # a thousand times a thousand is our own bomb
        items[at] = hostile(items[at], rng)
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


# Hostile graphs


def _some(items: Any, rng: random.Random) -> Any:
    return items[rng.randrange(len(items))]


def _int64(rng: random.Random) -> int:
    return (rng.choice(_INTERESTING[:-1]) + (1 << 63)) % (1 << 64) - (1 << 63)


def _rename(graph: onnx.ModelProto, rng: random.Random) -> None:
    """Wire a node otherwise: cycles, unknown names, two that make one tensor."""
    node = _some(graph.graph.node, rng)
    names = [name for each in graph.graph.node for name in (*each.input, *each.output)]
    side = node.input if rng.random() < 0.7 else node.output
    if not side:
        side.append("")
    side[rng.randrange(len(side))] = rng.choice([*names, "", "nobody", "x" * 70_000])


def _other_operator(graph: onnx.ModelProto, rng: random.Random) -> None:
    node = _some(graph.graph.node, rng)
    node.op_type = rng.choice(_OPERATORS)
    if rng.random() < 0.1:
        node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "nobody"])


def _odd_attribute(graph: onnx.ModelProto, rng: random.Random) -> None:
    node = _some(graph.graph.node, rng)
    name = rng.choice(["axis", "alpha", "perm", "value", "kernel_shape", "body", "to"])
    values: list[Any] = [_int64(rng), [_int64(rng)] * rng.choice([1, 4, 50_000]), float("nan"), "text", b"\xff", [1.0, 2.0]]
    node.attribute.append(helper.make_attribute(name, rng.choice(values)))


def _odd_weight(graph: onnx.ModelProto, rng: random.Random) -> None:
    """Claims of a weight that its bytes do not bear out."""
    weight = _some(graph.graph.initializer, rng)
    action = rng.randrange(4)
    if action == 0:
        weight.dims[:] = [_int64(rng) for _ in range(rng.choice([1, 2, 3, 5000]))]
    elif action == 1:
        weight.data_type = rng.randrange(-1, 40)
    elif action == 2:
        weight.raw_data = weight.raw_data[: rng.randrange(len(weight.raw_data) + 1)]
    else:
        graph.graph.initializer.add(name=f"more{rng.random()}", data_type=1, dims=[1 << 20, 1 << 20])


def _elsewhere(graph: onnx.ModelProto, rng: random.Random) -> None:
    """Weights in another file: of this directory, above it, anywhere; also inside a Constant, and inside a branch."""
    weight = onnx.TensorProto(name="far", data_type=1, dims=[3, 2], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=rng.choice(["w.bin", "../../../../etc/passwd", "/etc/passwd", "/dev/zero"]))
    weight.external_data.add(key="length", value=str(_int64(rng)))
    place = rng.randrange(3)
    if place == 0:
        graph.graph.initializer[0].CopyFrom(weight)
        graph.graph.initializer[0].name = "w"
    elif place == 1:
        graph.graph.node.insert(0, helper.make_node("Constant", [], ["far"], value=weight))
    else:
        inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=weight)], "b", [], [_OUTPUT])
        graph.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))


def _nest(graph: onnx.ModelProto, rng: random.Random) -> None:
    """An If in an If in an If, and sometimes two: not beyond the depth that protobuf reads, for which see `_nested`."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["c"])], "b", [], [_OUTPUT])
    for _ in range(rng.choice([2, 10, 30])):
        node = helper.make_node("If", ["yes"], ["c"])
        for name in ("then_branch", "else_branch") if rng.random() < 0.05 else ("then_branch",):
            node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
        if len(node.attribute) == 1:
            node.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(_LEAF)
        inner = helper.make_graph([node], "b", [], [_OUTPUT])
        if inner.ByteSize() > 1 << 20:
            break
    graph.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.graph.node.extend(inner.node)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, as bytes."""
    length = len(content)
    varint = bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *varint, length]) + content


def _nested(depth: int) -> bytes:
    """A graph with a node with an attribute with a graph, and so on, as bytes: no library makes the deepest of them."""
    graph = b""
    for _ in range(depth):
        attribute = _field(1, b"then_branch") + bytes([20 << 3, 5]) + _field(6, graph)
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    return graph


def _function(graph: onnx.ModelProto, rng: random.Random) -> None:
    """A function that calls itself, two that call each other, or many that call the next one twice."""
    count = rng.choice([1, 2, 18])
    for number in range(count):
        following = f"f{number + 1 if count > 2 else (number + 1) % count}"
        calls = [helper.make_node(following, ["v"], ["r"], domain="own")]
        if count > 2:
            leaf = number == count - 1
            operator, domain = ("Neg", "") if leaf else (following, "own")
            calls = [helper.make_node(operator, [a], [b], domain=domain) for a, b in (("v", "t"), ("t", "r"))]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        graph.functions.append(helper.make_function("own", f"f{number}", ["v"], ["r"], calls, opsets))
    graph.opset_import.append(helper.make_opsetid("own", 1))
    graph.graph.node.append(helper.make_node("f0", ["x"], ["own_result"], domain="own"))


def _bomb(graph: onnx.ModelProto, rng: random.Random) -> None:
    """A result far larger than what made it."""
    sizes = [rng.choice([1, 1 << 10, 1 << 20, 1 << 31, 1 << 40, -1]) for _ in range(rng.choice([1, 2, 3]))]
    graph.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    operator = rng.choice(["Expand", "Tile", "ConstantOfShape", "RandomNormal"])
    inputs = ["sizes"] if operator == "ConstantOfShape" else ["x", "sizes"]
    attributes = {"shape": sizes} if operator == "RandomNormal" else {}
    graph.graph.node.append(helper.make_node(operator, [] if attributes else inputs, ["big"], **attributes))


def _odd_border(graph: onnx.ModelProto, rng: random.Random) -> None:
    value = _some([*graph.graph.input, *graph.graph.output], rng)
    action = rng.randrange(4)
    if action == 0:
        value.type.tensor_type.elem_type = rng.randrange(40)
    elif action == 1:
        for _ in range(rng.choice([1, 3, 5000])):
            value.type.tensor_type.shape.dim.add().dim_value = _int64(rng)
    elif action == 2:
        value.type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)))
    else:
        value.ClearField("type")


def _odd_version(graph: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        graph.ir_version = _int64(rng)
    elif graph.opset_import and rng.random() < 0.9:
        graph.opset_import[0].version = rng.choice([_int64(rng), 1, 6, 11, 13, 18, 21])
    else:
        del graph.opset_import[:]


def _copies(graph: onnx.ModelProto, rng: random.Random) -> None:
    part = rng.choice([graph.graph.node, graph.graph.initializer, graph.graph.input, graph.graph.output])
    for _ in range(rng.choice([1, 2, 2000])):
        part.add().CopyFrom(part[0])


_GRAPH_MUTATIONS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(_rename, _other_operator, _odd_attribute, _odd_weight, _elsewhere, _nest),
    *(_function, _bomb, _odd_border, _odd_version, _copies),
)
_OUTPUT = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
_LEAF = helper.make_graph([helper.make_node("Identity", ["x"], ["c"])], "l", [], [_OUTPUT])
# Loops are left out: one that turns 2 ** 62 times is legal, and is as slow on a card.
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()} - {"Loop", "Scan"})


# Attempts


def read_frugally(attempt: Callable[[bytes], str], data: bytes) -> str:
    """Attempt a mutant and look at the memory.

    Raises:
        MemoryError: it took more than `BOMB_BYTES` and `BOMB_FACTOR` times the mutant's size.
        Exception: as `attempt`.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = attempt(data)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > BOMB_BYTES + BOMB_FACTOR * len(data):
        raise MemoryError(f"reading {len(data)} bytes took {grown} bytes")
    return answer


def _work(pipe: Connection, attempt_one: Attempt, seeds: range, memory_bytes: int) -> None:
    """In the child: attempt one seed after another, and tell what became of each: (seed, answer, failure)."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for seed in seeds:
        try:
            pipe.send((seed, attempt_one(seed), ""))
        except Exception as error:  # that is what the fuzzer looks for
            pipe.send((seed, "failed", f"{type(error).__name__}: {str(error)[:300]}"))


def survey(
    attempt_one: Attempt,
    seeds: range,
    *,
    seconds_each: float = 10.0,
    memory_bytes: int = 3 << 30,
    progress: Callable[[int, str], None] = lambda _done, _failure: None,
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Attempt every seed in child processes.

    Args:
        attempt_one: seed -> what became of it; importable, and it raises where there is a bug.
        seeds: consecutive ones.
        seconds_each: a seed that takes longer has failed.
        memory_bytes: address space of a child.
        progress: called with the number of seeds that are done, and with what happened to the last one if it failed.
    Returns:
        How often each answer came, and (seed, what happened) of each failure, deaths of the child among them.
    """
    answers: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    context = multiprocessing.get_context("spawn")
    at = seeds.start
    while at < seeds.stop:
        batch = range(at, min(at + _BATCH, seeds.stop))
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(theirs, attempt_one, batch, memory_bytes))
        child.start()
        theirs.close()
        patience = seconds_each + 60.0  # the child imports first
        while at < batch.stop:
            failure, ended = "", False
            if not mine.poll(patience):
                failure = f"took more than {seconds_each:g} s"
                child.kill()
                ended = True
            else:
                try:
                    _, answer, failure = mine.recv()
                    answers[answer] += 1
                except EOFError:
                    child.join()
                    ended = True
                    code = child.exitcode or 0
                    failure = f"killed the process: {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"
            if failure:
                failures.append((at, failure))
            at += 1
            patience = seconds_each
            progress(at - seeds.start, f"seed {at - 1}: {failure}" if failure else "")
            if ended:
                break
        mine.close()
        child.join()
    return answers, failures


def _bar(total: int) -> Callable[[int, str], None]:
    """A bar on a terminal, else a line per tenth; failures at once."""
    shown = [-1]

    def progress(done: int, failure: str) -> None:
        if failure:
            print(failure, flush=True)
        share = done * (100 if sys.stderr.isatty() else 10) // total
        if share == shown[0]:
            return
        shown[0] = share
        if sys.stderr.isatty():
            filled = done * 40 // total
            end = "\n" if done == total else ""
            print(f"\r[{'#' * filled}{' ' * (40 - filled)}] {done} of {total}", end=end, file=sys.stderr, flush=True)
        else:
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    return progress


def main(attempt_one: Attempt, description: str | None, argv: list[str] | None = None) -> int:
    """Run a fuzzer from the command line; returns the exit status, 1 after a failure or if nothing ran.

    Args:
        attempt_one: as `survey` takes it; one of its answers is "ran".
        description: what `--help` says.
        argv: the arguments; None: the process's.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    parser.add_argument("--memory-gb", type=float, default=3.0, help="address space of the child")
    parser.add_argument("--seconds-each", type=float, default=10.0, help="a mutant that takes longer has failed")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    answers, failures = survey(
        attempt_one,
        range(options.seed, options.seed + options.mutations),
        seconds_each=options.seconds_each,
        memory_bytes=int(options.memory_gb * 2**30),
        progress=_bar(options.mutations),
    )
    counts = ", ".join(f"{answer} {count}" for answer, count in sorted(answers.items()))
    print(f"{options.mutations} mutations in {time.perf_counter() - started:.0f} s: {counts}; {len(failures)} failures")
    # A fuzzer all of whose mutants are refused looks at nothing behind the checksum.
    return int(bool(failures) or answers["ran"] == 0)
