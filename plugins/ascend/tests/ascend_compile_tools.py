"""What the tests of compiling share: models in ONNX's text form, and converters written for one test."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import onnx.parser

from anybatch_ascend.compile import CompileOptions

SIM = [sys.executable, "-m", "acl_sim.atc"]

SCALE = "scale (float[rows, 3] x) => (float[rows, 3] y) <float two = {2}> { y = Mul(x, two) }"

SUCCEED = """
    Path(flags["output"] + ".om").write_bytes(b"IMOD" + json.dumps(flags["model"][-10:]).encode())
    print("ATC run success, welcome to the next use.")
"""


def parse(graph, *, opset=17):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')


def options(**given):
    return CompileOptions.from_options({"soc_version": "Ascend310P3", **given})


class FakeAtc:
    """An ``atc`` that writes down how it was called and then does what `body` says."""

    def __init__(self, folder: Path, body: str = SUCCEED) -> None:
        self.log = folder / "calls.jsonl"
        script = folder / "fake_atc.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import json, os, signal, subprocess, sys, time
                from pathlib import Path
                flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
                log = Path({str(self.log)!r})
                beside = sorted(path.name for path in Path(flags["model"]).parent.rglob("*.bin"))
                with log.open("a") as file:
                    call = {{"flags": flags, "cwd": os.getcwd(), "pid": os.getpid(), "beside": beside}}
                    call["model"] = Path(flags["model"]).read_bytes().hex()
                    file.write(json.dumps(call) + "\\n")
                print("ATC start working now, please wait for a moment.", flush=True)
                """
            )
            + textwrap.dedent(body)
        )
        self.command = [sys.executable, "-S", str(script)]

    @property
    def calls(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def flags(self):
        """The flags of the only call, without those that name files."""
        (call,) = self.calls
        return {name: value for name, value in call["flags"].items() if name not in ("model", "output", "framework")}
