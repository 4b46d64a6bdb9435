"""PopRT's own programs, unmodified, on the simulator: what they print, and what they leak or violate.

Nothing of them is in this repository: POPRT_SIM_PROGRAMS names a folder with graphcore/PopRT at 7487d65 (examples/,
benchmarks/, tools/) and, as dynamic_batch_size_1.0.2.py, the download of the page on dynamic batch size of version 1.0.2, as
docs/poprt-simulator.md says. What is missing there is skipped; what has another SHA-256 than the text these expectations were
recorded with fails. Stand-ins for what the programs import besides poprt, and a driver, are in tests/poprt_clients/.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from poprt_models import dense
from poprt_sim._popef import read_popef

PROGRAMS = os.environ.get("POPRT_SIM_PROGRAMS", "")
if not PROGRAMS:
    pytest.skip("set POPRT_SIM_PROGRAMS to a folder with the programs: see docs/poprt-simulator.md", allow_module_level=True)
OURS = Path(__file__).parent / "poprt_clients"
SOURCE = Path(__file__).parents[1] / "src"
SHA256 = {
    "dynamic_batch_size_1.0.2.py": "ec7bc740652ea4e3e95ab10e201cb88fd33d3ff98fdfb01173584cd830b4b489",
    "examples/dynamic_batch_size.py": "9be8cf35a11c367a30dcb794d72b57eb0d1ba1d92cc7e4241250410701bc7edc",
    "examples/simple_overlapio.py": "cb2d16d325766a86793fa6fca775d3d7ebf9834d8b5433c6b5495e1f09a3214b",
    "examples/convert_compile_and_run.py": "f86b4272a180a00cb6e9ca4f413f15a87985b2b48659e55d6fdafd618a4fd9d2",
    "examples/lightrunner_example.py": "a72016ff11a8c3d89657cfe7325bc1f23b54abe7ef512418e54b35339d8beac7",
    "examples/lightruner_example.py": "8014216b7994b412ebf7c9f87ff864eba374aeb76cc7f0bc561add1cd1d5e182",
    "examples/print_tile_mapping.py": "a474821ce1258729559e95cf237ac544eff4bd026c6d6e0a46aeac35096c45d4",
    "examples/flops_of_model.py": "cc8a1a8cbf2e5573dd757ac3698c43da355e5aa6e9b8ccce3d338f2ca90dcb35",
    "examples/host_concat_runner_example.py": "29b1c6974bf9e215f07be9f3184d38908fdbd7b7f346ea6b551db52c4473c205",
    "examples/custom_pass/load_custom_passes.py": "d9d3f59b08e03265c516bb31f8c690f8eb2123d178ce58a94af338db77849b82",
    "examples/custom_pass/load_custom_passes_in_cli.sh": "704f215de79cfa619475024265ea5d83f8c12e3b2cc3ff92614df76aea7196ec",
    "examples/custom_pass/replace_add_with_sub.py": "212bcead96f8f6f432bd97094222812a327aa1a2e779992b0ea1b0b75a68197b",
    "examples/model_fusion/compile.py": "814ed4196bb397951418c3291007d7149e193b456a8be6683076065a75aa0224",
    "examples/model_fusion/run.py": "00c32a27509420375b9b2351867cbb6254df43540824f5fdcc9203aacc73239e",
    "examples/model_fusion/config.yaml": "a38c894e79d7c4bcc9d22a0bea8aa99834e50d95ee496b839efbbf03a8f246e4",
    "benchmarks/benchmark.py": "6cb2495b1546492e2b27135be9ebb3163f468cd981ef216db5f19629b149e4cb",
    "tools/export_popef.py": "d9399cb9934e800557aaf54495b1404463091f4efbc7fe67945cda6439abd073",
    "tools/debug_numeric_issue.py": "da7ef391deeacb18612653fdd004513552ec62ae3551800e5d5210348e5c74ae",
}


def program(name: str) -> Path:
    """The program's path, after a look at whether it is there and is the text that was recorded."""
    path = Path(PROGRAMS, name).resolve()
    if not path.is_file():
        pytest.skip(f"POPRT_SIM_PROGRAMS has no {name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == SHA256[name], f"{name}: not the version that these expectations were recorded with"
    return path


@dataclass(frozen=True)
class Run:
    """How a program ended: exit status, output, and the simulator's ledger."""

    status: int
    out: str
    err: str
    ledger: dict

    def check_clean(self) -> None:
        assert (self.status, self.ledger["violations"], self.ledger["leaks"]) == (0, [], []), self.out + self.err


@pytest.fixture
def client(tmp_path):
    """`client(program, *args, options=, folders=)` runs a program on the simulator; `folders` go to its PYTHONPATH."""

    def run(path, *args, options=(), folders=()):
        report = tmp_path / "ledger.json"
        done = subprocess.run(
            [sys.executable, "-m", "poprt_sim", "--report", report, *options, path, *map(str, args)],
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [SOURCE, *folders])), "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        assert report.exists(), done.stderr
        return Run(done.returncode, done.stdout, done.stderr, json.loads(report.read_text()))

    return run


def arrays(out: str) -> list[np.ndarray]:
    """The one-line arrays that a program printed."""
    return [np.array(text.split(), np.float64) for text in re.findall(r"\[([^\]]*)\]", out)]


@pytest.mark.parametrize(
    ("name", "versions"),
    [("examples/dynamic_batch_size.py", ("", "1.3.0", "1.5.0")), ("dynamic_batch_size_1.0.2.py", ("", "1.0.2"))],
)
def test_dynamic_batch_size(client, name, versions):
    """The program itself compares each result with X + Y. 1 and 7 rows leave remainders, which wait once each."""
    for version in versions:
        done = client(program(name), options=["--poprt-version", version] if version else [])
        done.check_clean()
        assert done.out.splitlines() == [f"Successfully run with input data in batch size {n}" for n in (1, 4, 7)]
        assert (done.ledger["runs"], done.ledger["real_rows"], done.ledger["padded_rows"]) == (4, 12, 4)
        assert (done.ledger["waits"], done.ledger["waited_us"]) == (2, 600)


def test_each_form_needs_its_version(client):
    """The program of 1.0.2 sets a timedelta on a ModelRunner; 1.5 has neither."""
    done = client(program("dynamic_batch_size_1.0.2.py"), options=["--poprt-version", "1.5.0"])
    assert done.status == 1
    assert re.search("TypeError|AttributeError", done.err)


def test_simple_overlapio(client):
    """Three threads, sixteen requests each, with a timeout of 0: nothing may be left over."""
    done = client(program("examples/simple_overlapio.py"))
    done.check_clean()
    assert done.out == "Run PopEF with 3 threads.\nComplete.\n"
    assert (done.ledger["calls"]["runtime.Runner.execute"], done.ledger["runs"]) == (48, 48)


def test_convert_compile_and_run(client):
    done = client(program("examples/convert_compile_and_run.py"))
    done.check_clean()
    lines = [re.sub(r"[\d.]+ms", "Nms", line) for line in done.out.splitlines()]
    assert lines == [
        "No onnx model provided, run default model.",
        "Latency : Nms",
        "Synchorous avg Session Time : Nms",
        "Asyncronous avg Session Time : Nms",
    ]
    assert done.ledger["runs"] == 10 + 1000 + 1000
    assert done.ledger["padded_rows"] == 0


def test_convert_compile_and_run_from_a_file(client, tmp_path):
    onnx.save(dense(), tmp_path / "m.onnx")
    name = program("examples/convert_compile_and_run.py")
    done = client(name, "--onnx_model", "m.onnx", "--batches_per_step", 3)
    done.check_clean()
    assert done.out.startswith("Run onnx model m.onnx\n")
    assert done.ledger["runs"] == 10 + 30 + 30


def test_lightrunner(client, tmp_path):
    """Weights change the result; a stopped runner that is reloaded gives what it gave."""
    done = client(program("examples/lightrunner_example.py"))
    done.check_clean()
    before, after, *reloads = arrays(done.out)
    assert before.shape == (20,)
    assert not np.allclose(before, after)
    assert len(reloads) == 3
    for each in reloads:
        np.testing.assert_array_equal(each, reloads[0])
    assert len(list((tmp_path / "cache").glob("*.popef"))) == 1


def test_lightruner(client):
    done = client(program("examples/lightruner_example.py"))
    done.check_clean()
    first, second = arrays(done.out)
    assert not np.allclose(first, second)
    assert "fin update_weights" in done.out


def test_print_tile_mapping_and_flops(client, tmp_path):
    client(program("examples/print_tile_mapping.py")).check_clean()
    assert not (tmp_path / "test.popef").exists(), "the program removes it"
    done = client(program("examples/flops_of_model.py"))
    done.check_clean()
    assert done.out.splitlines()[-1] == f"FLOPs of model is {2 * 4 * 4 * 8 * 8 * 16 + 4 * 4 * 8 * 8}"


def test_custom_passes(client, tmp_path):
    folder = program("examples/custom_pass/load_custom_passes.py").parent
    program("examples/custom_pass/replace_add_with_sub.py")
    client(folder / "load_custom_passes.py").check_clean()
    script = program("examples/custom_pass/load_custom_passes_in_cli.sh")
    for each in (script, script.with_name("replace_add_with_sub.py")):
        shutil.copy(each, tmp_path)
    (tmp_path / "shell.py").write_text(f"import os\nraise SystemExit(os.system('sh {script.name}') >> 8)\n")
    done = client("shell.py")
    done.check_clean()
    assert done.out == "replace_add_with_sub\n"


def test_model_fusion(client, tmp_path):
    """Both programs insist on running in their folder, and the first starts the command poprt."""
    for name in ("compile.py", "run.py", "config.yaml"):
        shutil.copy(program(f"examples/model_fusion/{name}"), tmp_path)
    client(tmp_path / "compile.py", folders=[OURS / "old_onnx"]).check_clean()
    assert [graph.name for graph in read_popef(tmp_path / "executable.popef").graphs] == ["graph0", "graph1"]
    done = client(tmp_path / "run.py")  # it compares both results itself
    done.check_clean()
    assert done.ledger["runs"] == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_benchmark(client, precision):
    """run_benchmark raises where shapes differ from ONNX Runtime's, and measures the difference."""
    folder = program("benchmarks/benchmark.py").parent
    done = client(OURS / "drive_benchmark.py", folder, precision, folders=[OURS])
    done.check_clean()
    report = json.loads(done.out)
    assert (report["iteration"], report["batch_size"]) == (1000, 4)
    assert report["mse"] == 0 if precision == "fp32" else 0 < report["mse"] < 1e-4
    assert done.ledger["runs"] == 1005


def test_host_concat_runner(client):
    """The plain model and the merged one, on the same inputs: the program prints twenty numbers of each."""
    done = client(program("examples/host_concat_runner_example.py"))
    done.check_clean()
    assert "model len(inputs): 63\nmerged model len(inputs): 4\n" in done.out
    plain, merged = arrays(done.out)
    assert plain.shape == (20,)
    assert plain.std() > 0
    np.testing.assert_array_equal(plain, merged)
    assert done.ledger["calls"]["runtime.HostConcatRunner"] == 1
    assert done.ledger["runs"] == 2


def test_export_popef(client, tmp_path):
    onnx.save(dense(), tmp_path / "m.onnx")
    client(program("tools/export_popef.py"), "--onnx_model", "m.onnx").check_clean()
    made = read_popef(tmp_path / "m.onnx.popef")
    assert (made.batches_per_step, made.num_io_tiles) == (1000, 192)


def test_debug_numeric_issue(client, tmp_path):
    model = onnx.shape_inference.infer_shapes(dense())
    onnx.save(model, tmp_path / "m.onnx")
    name = program("tools/debug_numeric_issue.py")
    done = client(name, "--src_onnx", "m.onnx", "--dst_onnx", "m.onnx", "--input_func", "x=rand")
    assert "poprt_sim" not in done.out
    assert "y - shape: (4, 5)" in done.out, done.out + done.err
    assert "max: (0.000000" in done.out
