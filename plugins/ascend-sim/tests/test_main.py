"""`python -m acl_sim`: unmodified programs, their exit status, the ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[1] / "src")

GOOD = """
import acl
import acl.rt
from acl.util import bytes_to_ptr
import sys
assert acl.init() == 0
assert acl.rt.set_device(0) == 0
ptr, ret = acl.rt.malloc(16, 0)
assert ret == 0 and acl.rt is sys.modules["acl.rt"]
assert acl.rt.memcpy(ptr, 16, bytes_to_ptr(bytes(16)), 16, 1) == 0
assert acl.rt.free(ptr) == 0
assert acl.rt.reset_device(0) == 0
assert acl.finalize() == 0
print(sys.argv[1:], __name__)
"""
LEAKING = "import acl\nacl.rt.set_device(0)\nacl.rt.malloc(5, 0)\nacl.rt.create_stream()\n"
MISUSING = "import acl\nacl.rt.set_device(0)\np, _ = acl.rt.malloc(5, 0)\nacl.rt.free(p)\nprint(acl.rt.free(p))\n"


def run(tmp_path, program, *options, args=(), module=False, env=None):
    (tmp_path / "program.py").write_text(program)
    target = ["-m", "program"] if module else [str(tmp_path / "program.py")]
    return subprocess.run(
        [sys.executable, "-m", "acl_sim", *options, *target, *args],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": SOURCE, **(env or {})},
    )  # fmt: skip


@pytest.mark.parametrize("module", [False, True])
def test_a_good_program(tmp_path, module):
    done = run(tmp_path, GOOD, "--check", args=["--flag", "x"], module=module)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['--flag', 'x'] __main__\n"
    assert "0 violations, 0 leaks" in done.stderr


@pytest.mark.parametrize(("program", "status"), [
    ("import sys; sys.exit(7)", 7), ("raise SystemExit", 0), ("raise SystemExit('no')", 1), ("1/0", 1),
    ("import nothing_such", 1),
])  # fmt: skip
def test_the_status_is_the_programs(tmp_path, program, status):
    done = run(tmp_path, program, "--check")
    assert done.returncode == status, done.stderr
    assert "acl_sim/__main__.py" not in done.stderr
    assert "importlib" not in done.stderr
    assert "acl_sim ledger" in done.stderr


def test_leaks(tmp_path):
    report = tmp_path / "ledger.json"
    done = run(tmp_path, LEAKING, "--report", str(report))
    assert done.returncode == 0
    assert "leak device memory" in done.stderr
    account = json.loads(report.read_text())
    assert [leak["site"].rpartition(":")[2] for leak in account["leaks"]] == ["4", "3"]
    assert account["calls"]["acl.rt.malloc"] == 1
    assert run(tmp_path, LEAKING, "--check").returncode == 3


@pytest.mark.parametrize(("options", "status"), [((), 7), (("--check",), 3)])
def test_a_failing_program_that_leaks(tmp_path, options, status):
    done = run(tmp_path, LEAKING + "import sys\nsys.exit(7)\n", *options)
    assert done.returncode == status, done.stderr


def test_violations(tmp_path):
    strict = run(tmp_path, MISUSING)
    assert strict.returncode == 1
    assert "Violation: [double free]" in strict.stderr
    assert "program.py:4" in strict.stderr
    assert run(tmp_path, MISUSING, "--check").returncode == 3
    tolerant = run(tmp_path, MISUSING, "--tolerant")
    assert (tolerant.returncode, tolerant.stdout) == (0, "107000\n")
    assert "violation [double free]" in tolerant.stderr
    assert run(tmp_path, MISUSING, "--tolerant", "--check").returncode == 3


def test_what_is_freed_at_exit_has_not_leaked(tmp_path):
    program = LEAKING + (
        "import atexit\n"
        "class Holder:\n"
        "    def __init__(self):\n        self.ptr = acl.rt.malloc(5, 0)[0]\n"
        "    def __del__(self):\n        acl.rt.free(self.ptr)\n"
        "holder = Holder()\n"
    )
    program = program.replace("acl.rt.malloc(5, 0)\nacl.rt.create_stream()", "p = acl.rt.malloc(5, 0)[0]")
    program += "atexit.register(lambda: acl.rt.free(p))\n"
    done = run(tmp_path, program, "--check")
    assert done.returncode == 0, done.stderr


HOLDER = """
import acl
{}
class Holder:
    def __init__(self):
        acl.rt.set_device(0)
        self.ptr, self.free = acl.rt.malloc(5, 0)[0], acl.rt.free
    def __del__(self):
        self.free(self.ptr)
holder = Holder()
"""


@pytest.mark.parametrize(
    "keeper",
    [
        "import multiprocessing",  # it knows the program's module as __mp_main__, too
        "import sys; sys.kept = sys.modules['__main__']",
        "import threading; threading.Thread(target=lambda: holder).start()",
    ],
)
def test_what_the_end_of_the_program_frees_has_not_leaked(tmp_path, keeper):
    done = run(tmp_path, HOLDER.format(keeper), "--check")
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_program_is_the_main_module(tmp_path):
    program = "import sys, __main__\nhere = 1\nprint(__main__.here, sys.modules['__main__'].__dict__ is globals(), __spec__)\n"
    assert run(tmp_path, program).stdout == "1 True None\n"


def test_packages_and_folders_run(tmp_path):
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool/__init__.py").write_text("")
    (tmp_path / "tool/part.py").write_text("word = 'part'\n")
    (tmp_path / "tool/__main__.py").write_text("from .part import word\nimport sys\nprint(word, __package__, sys.argv[1:])\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/__main__.py").write_text("import sys, near\nprint(near.word, __name__, sys.argv)\n")
    (tmp_path / "folder/near.py").write_text("word = 'near'\n")
    env = {**os.environ, "PYTHONPATH": SOURCE}
    for target, expected in ((["-m", "tool"], "part tool ['x']\n"), (["folder"], "near __main__ ['folder', 'x']\n")):
        done = subprocess.run(
            [sys.executable, "-m", "acl_sim", *target, "x"], cwd=tmp_path, capture_output=True, text=True, timeout=100, env=env
        )
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize("target", [["-m", "no_such"], ["no_such.py"]])
def test_a_program_that_is_not_there(tmp_path, target):
    done = subprocess.run(
        [sys.executable, "-m", "acl_sim", *target], cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot run {target[-1]!r}: no such" in done.stderr


def test_spinning_report_threads_do_not_keep_the_process(tmp_path):
    program = (
        "import acl\nacl.rt.set_device(0)\n"
        "def spin(_):\n    while True:\n        acl.rt.process_report(10)\n"
        "print(acl.util.start_thread(spin, [])[1])\n"
    )
    done = run(tmp_path, program)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_options_and_environment(tmp_path):
    program = "import acl\nprint(acl.rt.get_device_count()[0], acl.rt.get_run_mode()[0], acl.get_soc_name())\n"
    done = run(
        tmp_path, program, "--devices", "3", "--run-mode", "device", "--device-time", "affine:5,1",
        env={"ACL_SIM_SOC_NAME": "Ascend910B1", "ACL_SIM_DEVICES": "2"},
    )  # fmt: skip
    assert done.stdout == "3 0 Ascend910B1\n", done.stderr


@pytest.mark.parametrize(
    ("options", "least"), [(["--real-time"], 0.1), (["--real-time", "2"], 0.2), (["--real-time=.5"], 0.05)]
)
def test_real_time(tmp_path, options, least):
    """A copy of 100 ms; a program's own --real-time is left to it."""
    profile = tmp_path / "slow.json"
    profile.write_text('{"copy_overhead_us": 100000}')
    program = (
        "import acl, sys, time\nacl.rt.set_device(0)\nd = acl.rt.malloc(8, 0)[0]\nh = acl.rt.malloc_host(8)[0]\n"
        "begin = time.monotonic()\nacl.rt.memcpy(d, 8, h, 8, 1)\nprint(time.monotonic() - begin, *sys.argv[1:])\n"
    )
    done = run(tmp_path, program, *options, "--device-time", str(profile), args=["--real-time", "x"])
    assert done.returncode == 0, done.stderr
    seconds, *args = done.stdout.split()
    assert float(seconds) >= least
    assert args == ["--real-time", "x"]
    assert "real time: the simulator was slower than the model by" in done.stderr


def test_real_time_by_the_environment(tmp_path):
    done = run(tmp_path, LEAKING, env={"ACL_SIM_REAL_TIME": "1"})
    assert "real time: " in done.stderr
    assert "real time: " not in run(tmp_path, LEAKING, "--real-time", "0", env={"ACL_SIM_REAL_TIME": "1"}).stderr
