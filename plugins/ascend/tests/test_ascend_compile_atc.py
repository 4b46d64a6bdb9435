"""Running ``atc``: finding it, its output, its errors, and that it never outlives the call."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import anybatch
from acl_sim import atc as sim
from anybatch import BackendUnavailableError, InputError, ModelError
from anybatch_ascend import _atc
from anybatch_ascend._atc import AtcError, AtcInputError, AtcModelError, Problem, error_of, find_atc, identity, parse, run_atc
from ascend_compile_tools import FakeAtc

FAILED = "ATC start working now, please wait for a moment.\n...\n" + sim.FAILURE + "\n"
# Source of 2026: a title, and the code in brackets.
NEW = FAILED + (
    "[PID: 4711] 2026-01-02-03:04:05.678.901 Invalid_Argument_Operator_Name(E10016): Opname [y] specified in [--input_shape] "
    "is not found.\n        over two lines\n"
    "        Possible Cause: The name is wrong.\n        Solution: Check the name,\n        then the model.\n"
    "        TraceBack (most recent call last):\n        Invalid_Argument(E10001): Something below.\n"
)
# CANN 8.1: the code first.
OLD = FAILED + (
    "E20001: [PID: 200452] 2025-06-16-13:02:36.801.136 Failed to compile the op.\n"
    "        Possible Cause: N/A of old.\n        Solution: Try again.\n"
    "        TraceBack (most recent call last):\n        build failed.[FUNC:Build][FILE:x.cc][LINE:1]\n"
)
INTERNAL = (
    FAILED
    + "E19999: Internal Error!\n        TraceBack (most recent call last):\n        acl_sim: mode 6 failed.\n        more\n"
)


def test_both_forms_of_an_error_block():
    assert parse(NEW) == Problem(
        "E10016",
        "Opname [y] specified in [--input_shape] is not found. over two lines",
        "The name is wrong.",
        "Check the name, then the model.",
    )
    assert parse(OLD) == Problem("E20001", "Failed to compile the op.", "N/A of old.", "Try again.")
    assert parse(INTERNAL) == Problem("E19999", "Internal Error! acl_sim: mode 6 failed.")
    assert parse("nothing of the kind") == Problem(None, "")


def test_something_like_a_code_in_a_path_is_not_the_error():
    text = "reading /models/E12345/x.onnx\n" + NEW
    assert parse(text).code == "E10016"
    assert parse("E10016: without the line above").code == "E10016"


def test_an_error_carries_all_that_the_vendor_said():
    error = error_of(NEW, 255)
    assert type(error) is AtcInputError
    assert isinstance(error, AtcError)
    assert isinstance(error, InputError)
    assert str(error) == (
        "atc failed: E10016: Opname [y] specified in [--input_shape] is not found. over two lines; "
        "possible cause: The name is wrong; solution: Check the name, then the model"
    )
    assert (error.code, error.possible_cause, error.text) == ("E10016", "The name is wrong.", NEW)
    assert (error.message, error.solution) == (
        "Opname [y] specified in [--input_shape] is not found. over two lines",
        "Check the name, then the model.",
    )
    assert error.__notes__ == [NEW]


# Every code of the contract, and whose move it is.
CALLER = [1, 2, 3, 4, 7, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 22, 31, 35, 36, 37, 38, 39, 40, 48, 49, 54, 56, 58]
CODES = {f"E100{number:02}": AtcInputError for number in CALLER} | dict.fromkeys(
    ["E10501", "E13000", "E13001", "E16002", "E16004", "E16005", "E19999", "E20001", "E40021", "EZ9999"], AtcModelError
)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["[PID: 1] 2026-01-02-03:04:05.678.901 Title({}): no", "{}: [PID: 1] 2025-06-16-13:02:36 no"])
def test_whose_move_it_is(code, form):
    error = error_of(FAILED + form.format(code), 255)
    assert type(error) is CODES[code]
    assert (error.code, error.message) == (code, "no")


def test_every_code_of_the_simulator_has_its_move():
    codes = set(_atc._CODE.findall(Path(sim.__file__).read_text()))
    assert len(codes) > 20
    assert codes <= set(CODES)


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (-9, "", AtcModelError, "atc failed: it was killed by SIGKILL; the machine may have run out of memory"),
        (-11, "", AtcModelError, "atc failed: it was killed by SIGSEGV"),
        (-64 - 5, "", AtcModelError, "atc failed: it was killed by signal 69"),
        (3, "a\nlast words\n\n", AtcModelError, "atc failed: exit status 3 without an error code: last words"),
        (3, "", AtcModelError, "atc failed: exit status 3 without an error code: it printed nothing"),
        (255, "ERROR: unknown command line flag 'x'\n" + FAILED + "E19999: Internal Error!\n", AtcInputError,
         "atc failed: E19999: unknown command line flag 'x'; see atc_options"),
        (255, "ERROR: unknown command line flag 'x'\n", AtcInputError,
         "atc failed: unknown command line flag 'x'; see atc_options"),
        (127, "atc: error while loading shared libraries: libge.so: cannot open", BackendUnavailableError,
         "atc does not run here: atc: error while loading shared libraries: libge.so"),
        (1, "Traceback\nModuleNotFoundError: No module named 'tbe'\n", BackendUnavailableError,
         "atc does not run here: ModuleNotFoundError: No module named 'tbe'; the environment of CANN is not set"),
        (126, "", BackendUnavailableError, "atc does not run here: exit status 126"),
    ],
)  # fmt: skip
def test_other_ways_to_fail(status, text, kind, message):
    error = error_of(text, status)
    assert type(error) is kind
    assert str(error).startswith(message)
    if kind is BackendUnavailableError:
        assert "source /usr/local/Ascend/ascend-toolkit/set_env.sh" in str(error)


def test_what_is_no_missing_environment():
    assert type(error_of(FAILED + "E20001: No module named 'tenor'", 1)) is AtcModelError


# --- finding it ---


def test_atc_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "atc").write_text("#!/bin/sh\n")
    (tmp_path / "atc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_atc(None) == [str(tmp_path / "atc")]
    assert find_atc(["atc", "-x"]) == [str(tmp_path / "atc"), "-x"]


def test_atc_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BackendUnavailableError) as caught:
        find_atc(None)
    assert str(caught.value).startswith(
        "atc, the converter for Ascend, is not on the PATH: it comes with Huawei's CANN toolkit"
    )
    assert "/usr/local/Ascend/ascend-toolkit/latest/bin/atc" in str(caught.value)
    assert "source /usr/local/Ascend/ascend-toolkit/set_env.sh" in str(caught.value)
    with pytest.raises(BackendUnavailableError, match="there is no program '/nowhere/atc' to run; it comes with"):
        find_atc(["/nowhere/atc"])


@pytest.mark.parametrize("variable", ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"])
def test_atc_is_installed_but_its_environment_is_not_set(tmp_path, monkeypatch, variable):
    home = tmp_path / "ascend-toolkit" / "latest"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "atc").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(home))
    with pytest.raises(BackendUnavailableError) as caught:
        find_atc(None)
    assert f"{home}/bin/atc, but not on the PATH" in str(caught.value)
    assert f"such as {tmp_path}/ascend-toolkit/set_env.sh" in str(caught.value)


def test_the_identity_of_a_python_tool_is_its_package(tmp_path, monkeypatch):
    package = tmp_path / "tool_of_this_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "atc.py").write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    command = [sys.executable, "-m", "tool_of_this_test.atc"]
    before = identity(command)
    assert identity(command) == before
    (package / "atc.py").write_text("other")
    assert identity(command) != before
    assert identity([sys.executable, "-m", "no_such_package.atc"])


# --- running it ---


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"model")
    return f"--model={tmp_path / 'model.onnx'}"


def run(tmp_path, model, body, **arguments):
    fake = FakeAtc(tmp_path, textwrap.dedent(body))
    run_atc(fake.command, [model, f"--output={tmp_path / 'out'}"], folder=tmp_path, **arguments)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(pid):
    limit = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < limit:
        time.sleep(0.01)
    return not is_alive(pid)


def test_lines_arrive_as_they_are_printed(tmp_path, model):
    """The converter waits for what the caller does on its first line."""
    go = tmp_path / "go"

    def progress(line):
        lines.append(line)
        if line == "first":
            go.touch()

    lines = []
    body = f"""
    print("first", flush=True)
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    print()
    print("on stderr", file=sys.stderr, flush=True)
    sys.stdout.buffer.write(b"\\xff last")
    """
    run(tmp_path, model, body, progress=progress, timeout_s=30)
    assert lines == ["ATC start working now, please wait for a moment.", "first", "on stderr", "\ufffd last"]


def test_no_shell_looks_at_the_arguments(tmp_path, model):
    fake = FakeAtc(tmp_path)
    run_atc(fake.command, [model, f"--output={tmp_path / 'o'}", "--x=$(touch pwned); `ls` 'a b' \" *"], folder=tmp_path)
    assert fake.calls[0]["flags"]["x"] == "$(touch pwned); `ls` 'a b' \" *"
    assert not (tmp_path / "pwned").exists()


def test_a_failing_atc(tmp_path, model):
    with pytest.raises(AtcModelError) as caught:
        run(tmp_path, model, f"print({OLD!r}); sys.exit(255)")
    assert caught.value.code == "E20001"
    assert OLD.strip() in caught.value.text


def test_a_killed_atc(tmp_path, model):
    with pytest.raises(AtcModelError, match="it was killed by SIGKILL; the machine may have run out of memory"):
        run(tmp_path, model, "os.kill(os.getpid(), signal.SIGKILL)")


def test_a_hanging_atc_is_ended_with_all_it_started(tmp_path, model):
    """It ignores polite requests, and so does its child."""
    body = f"""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    Path({str(tmp_path / "pids")!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
    print("hanging", flush=True)
    time.sleep(1000)
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_atc, "_ENDING_S", 0.2)
        with pytest.raises(AtcModelError, match=r"it took longer than the 0.8 s of compile_timeout_s and was ended") as caught:
            run(tmp_path, model, body, timeout_s=0.8)
    assert "hanging" in caught.value.text
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert all(ends(pid) for pid in pids)


def test_an_atc_that_closes_its_output_and_hangs(tmp_path, model):
    with pytest.raises(AtcModelError, match="took longer"):
        run(tmp_path, model, "os.close(1); os.close(2); time.sleep(1000)", timeout_s=0.8)


def test_a_child_that_keeps_the_output_open_is_not_waited_for(tmp_path, model):
    body = f"""
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    Path({str(tmp_path / "pids")!r}).write_text(str(child.pid))
    """
    run(tmp_path, model, body, timeout_s=30)
    assert ends(int((tmp_path / "pids").read_text()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whoever_interrupts_ends_it(tmp_path, model, error):
    def progress(line):
        if line == "hanging":
            raise error

    fake = FakeAtc(tmp_path, "print('hanging', flush=True)\ntime.sleep(1000)\n")
    with pytest.raises(error):
        run_atc(fake.command, [model, f"--output={tmp_path / 'out'}"], folder=tmp_path, progress=progress)
    assert ends(fake.calls[0]["pid"])


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path):
    """A whole process, interrupted while its converter works."""
    fake = FakeAtc(tmp_path, "print('hanging', flush=True)\ntime.sleep(1000)\n")
    program = """if True:
        import signal, sys
        import onnx.parser
        from anybatch_ascend.compile import CompileOptions, compile_model
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
        text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }'
        options = CompileOptions.from_options({"soc_version": "A", "cache_dir": sys.argv[1]})
        say = lambda line: print(line, flush=True)
        compile_model(onnx.parser.parse_model(text), batch_sizes=None, options=options, atc=sys.argv[2:], progress=say)
    """
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), *fake.command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.stdout.readline() != "hanging\n":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in err
    assert ends(fake.calls[0]["pid"])
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_program_that_cannot_be_started(tmp_path, model):
    (tmp_path / "atc").write_text("no program")
    (tmp_path / "atc").chmod(0o755)
    with pytest.raises(BackendUnavailableError, match=r"atc: .* cannot be started: Exec format error"):
        run_atc([str(tmp_path / "atc")], [model], folder=tmp_path)


def test_errors_are_of_the_two_kinds_only():
    assert issubclass(AtcError, anybatch.AnybatchError)
    assert not issubclass(AtcError, (InputError, ModelError))
    assert {kind.__name__ for kind in AtcError.__subclasses__()} == {"AtcInputError", "AtcModelError"}
