"""`python -m poprt_sim`: unmodified programs, what they import and start, their exit status, the ledger."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from poprt_sim import _serve

SOURCE = str(Path(__file__).parents[1] / "src")

MODEL = """
import sys
import numpy as np
import onnx
from onnx import helper
from poprt import runtime
from poprt.compiler import Compiler

def compiled():
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 2]) for name in "XYO"]
    graph = helper.make_graph([helper.make_node("Add", ["X", "Y"], ["O"])], "adder", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    return Compiler.compile(model.SerializeToString(), ["O"])

def run(runner, rows=4):
    x = np.full([rows, 2], 3, np.float32)
    output = {"O": np.zeros([rows, 2], np.float32)}
    runner.execute({"X": x, "Y": x}, output)
    return output["O"]
"""
GOOD = (
    MODEL
    + """
import poprt, poprt.compiler, poprt.runtime, poprt.utils, poprt.passes.onnx_helper
from poprt.converter import Converter
from poprt import Pass
assert poprt.runtime is runtime and poprt.compiler.Compiler is Compiler and poprt.Converter is Converter
assert sys.modules["poprt"] is poprt and poprt.__version__
print(run(runtime.Runner(compiled())).tolist()[0], sys.argv[1:], __name__)
"""
)
LEAKING = MODEL + "runner = runtime.Runner(compiled())\nsys.kept = runner\n"
MISUSING = MODEL + "runner = runtime.Runner(compiled())\nprint(run(runner, 5).shape)\n"


def run(tmp_path, program, *options, args=(), module=False, env=None):
    (tmp_path / "program.py").write_text(program)
    target = ["-m", "program"] if module else [str(tmp_path / "program.py")]
    return subprocess.run(
        [sys.executable, "-m", "poprt_sim", *options, *target, *args],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": SOURCE, **(env or {})},
    )  # fmt: skip


@pytest.mark.parametrize("module", [False, True])
def test_a_good_program(tmp_path, module):
    done = run(tmp_path, GOOD, "--check", args=["--flag", "x"], module=module)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[6.0, 6.0] ['--flag', 'x'] __main__\n"
    assert "0 violations, 0 leaks" in done.stderr


@pytest.mark.parametrize(("program", "status"), [
    ("import sys; sys.exit(7)", 7), ("raise SystemExit", 0), ("raise SystemExit('no')", 1), ("1/0", 1),
    ("import poprt.nothing_such", 1), ("import poprt; poprt.nothing_such", 1), ("raise KeyboardInterrupt", 130),
])  # fmt: skip
def test_the_status_is_the_programs(tmp_path, program, status):
    done = run(tmp_path, program, "--check")
    assert done.returncode == status, done.stderr
    assert "poprt_sim/__main__.py" not in done.stderr
    assert "importlib" not in done.stderr
    assert "poprt_sim ledger" in done.stderr


def test_a_missing_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "poprt_sim", "nothing.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": SOURCE}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot run 'nothing.py': no such program" in done.stderr


def test_leaks(tmp_path):
    report = tmp_path / "ledger.json"
    done = run(tmp_path, LEAKING, "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "1 leaks" in done.stderr
    account = json.loads(report.read_text())
    assert [leak["kind"] for leak in account["leaks"]] == ["runner"]
    assert account["calls"]["compiler.Compiler.compile"] == 1
    assert run(tmp_path, LEAKING, "--check").returncode == 3
    assert run(tmp_path, LEAKING + "sys.exit(7)\n").returncode == 7
    assert run(tmp_path, LEAKING + "sys.exit(7)\n", "--check").returncode == 3


def test_a_device_handle_that_is_kept_leaks(tmp_path):
    done = run(tmp_path, MODEL + "sys.kept = runtime.DeviceManager().get_device(1)\n", "--check")
    assert done.returncode == 3
    assert "leak device get_device(1) on IPU 0" in done.stderr


@pytest.mark.parametrize(
    "ending",
    [
        "runner = runtime.Runner(compiled())\n",
        "runner = runtime.Runner(compiled())\nimport sys; sys.kept = sys.modules['__main__']\n",
        "import atexit\nrunner = runtime.Runner(compiled())\natexit.register(lambda: print(run(runner)[0][0]))\n",
        # A circle, which only the garbage collector finds.
        "held = {'runner': runtime.Runner(compiled())}\nheld['self'] = held\n",
    ],
)
def test_what_the_end_of_the_program_frees_has_not_leaked(tmp_path, ending):
    done = run(tmp_path, MODEL + ending, "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("6.0\n" if "atexit" in ending else "")
    assert "Exception ignored" not in done.stderr


def test_what_dies_with_the_program_says_so(tmp_path):
    """Nothing of the program runs any more, and the simulator's own file is nobody's mistake."""
    program = MODEL + (
        "runner = runtime.Runner(compiled())\nx = np.zeros([4, 2], np.float32)\n"
        "future = runner.execute_async({'X': x, 'Y': x}, {'O': np.zeros([4, 2], np.float32)})\n"
    )
    done = run(tmp_path, program, "--check")
    assert done.returncode == 3
    assert "violation [requests in flight] the runner of 'adder' was deleted with 1 requests in flight" in done.stderr
    assert "(at the end of the program)" in done.stderr
    assert "__main__.py" not in done.stderr


def test_options_make_the_machine(tmp_path):
    program = MODEL + (
        "print(runtime.DeviceManager().get_num_devices(), runtime.DeviceManager().ipu_hardware_version())\n"
        "from poprt_sim import testing\n"
        "config = testing.machine().config\nprint(config.strict, config.device_time, config.version)\n"
    )
    words = ["--devices", "2", "--ipu-version", "ipu2", "--tolerant", "--device-time", "none", "--poprt-version", "1.2.0"]
    assert run(tmp_path, program, *words).stdout == "2 ipu2\nFalse none 1.2.0\n"
    assert run(tmp_path, program, env={"POPRT_SIM_DEVICES": "3"}).stdout == "3 ipu21\nTrue c600 None\n"
    for wrong in (["--devices", "0"], ["--device-time", "nothing"], ["--poprt-version", "9"]):
        done = run(tmp_path, program, *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "python -m poprt_sim: error: " in done.stderr
        assert "Traceback" not in done.stderr


def test_other_programs_that_it_starts(tmp_path):
    """The command poprt, `python -m poprt.cli` and a Python program of its own, on a machine like this one."""
    (tmp_path / "child.py").write_text(
        "import poprt\nfrom poprt.runtime import DeviceManager\nimport poprt.runtime\n"
        "print(DeviceManager().get_num_devices(), poprt.runtime.DeviceManager is DeviceManager)\n"
    )
    program = (
        "import os, subprocess, sys\n"
        "status = os.system('poprt --list_all_passes > names') or os.system(sys.executable + ' -W error -m poprt.cli -v')\n"
        "subprocess.run([sys.executable, 'child.py'], check=True)\nsys.exit(status)\n"
    )
    done = run(tmp_path, program, "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "poprt 1.5.0 (simulated)\n2 True\n"
    assert "gelu_pattern" in (tmp_path / "names").read_text().splitlines()


def test_the_command_line_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "poprt_sim", "-m", "poprt.cli", "-v"], cwd=tmp_path, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": SOURCE}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "poprt 1.5.0 (simulated)\n"), done.stderr


def test_threads_end_before_the_account(tmp_path):
    program = MODEL + (
        "import threading\nrunner = runtime.Runner(compiled())\n"
        "threading.Thread(target=lambda: print(run(runner)[0][0])).start()\ndel runner\n"
    )
    done = run(tmp_path, program, "--check")
    assert (done.returncode, done.stdout) == (0, "6.0\n"), done.stderr


def test_serving_in_process():
    assert "poprt" not in sys.modules
    with _serve.served():
        import poprt
        import poprt.passes.onnx_helper as helper
        from poprt import compiler
        from poprt.passes import Pass

        import poprt_sim.compiler
        import poprt_sim.passes

        assert compiler is poprt_sim.compiler
        assert Pass is poprt_sim.passes.Pass
        assert helper is poprt_sim.passes.onnx_helper
        assert poprt.__spec__.name == "poprt_sim"
        with _serve.served():
            assert sys.modules["poprt"] is poprt
        assert sys.modules["poprt"] is poprt
        with pytest.raises(ModuleNotFoundError, match=r"poprt\.nothing"):
            __import__("poprt.nothing")
        with pytest.raises(AttributeError, match=r"poprt\.nothing: poprt_sim does not have it; it has"):
            poprt.nothing  # noqa: B018
    assert "poprt" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        import poprt


def test_modules_that_are_left_out_say_so():
    with _serve.served():
        with pytest.raises(ModuleNotFoundError, match=r"has no module 'poprt.passes.pattern_helper': it is not simulated"):
            importlib.import_module("poprt.passes.pattern_helper")
        with pytest.raises(ImportError, match="cannot import name 'nothing_like_it'"):
            exec("from poprt.passes import nothing_like_it", {})


def test_a_report_that_cannot_be_written_is_told_before_the_program_runs(tmp_path):
    done = run(tmp_path, "print('ran')", "--report", str(tmp_path / "no" / "r.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m poprt_sim: error: [Errno 2] No such file or directory")
    assert len(done.stderr.splitlines()) == 1


def test_the_command_on_a_machine_that_cannot_be(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "poprt_sim.cli", "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": SOURCE, "POPRT_SIM_DEVICES": "two"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "poprt: error: POPRT_SIM_DEVICES=two: expected a whole number, got 'two'\n"
