"""Where compiled models are kept, under which names, and what happens when several want the same at once."""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import anybatch
from anybatch import InputError, Kept, ModelError, cache_folder, external_files, keep_artefact, model_digest

KEY = "0123abcd"


def writes(content=b"content"):
    def build(path):
        build.calls += 1
        (path.parent / "litter").write_text("of the tool")
        path.write_bytes(content)

    build.calls = 0
    return build


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# --- the folder ---


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ANYBATCH_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/x"}, "/a"),
        ({"ANYBATCH_CACHE_DIR": "~/a"}, "/home/me/a"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/anybatch"),
        ({"XDG_CACHE_HOME": "x"}, "/home/me/.cache/anybatch"),
        ({"ANYBATCH_CACHE_DIR": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/anybatch"),
        ({}, "/home/me/.cache/anybatch"),
    ],
)
def test_cache_folder(monkeypatch, variables, expected):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("ANYBATCH_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_relative_cache_folder_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", "here")
    assert cache_folder() == tmp_path / "here"


def test_without_a_home_folder(monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("ANYBATCH_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match="set ANYBATCH_CACHE_DIR"):
        cache_folder()


# --- keeping ---


def test_built_once_and_found_again(tmp_path):
    folder, build = tmp_path / "deep" / "cache", writes()
    first = keep_artefact(folder, KEY, ".bin", build)
    assert not first.cached
    assert not first.temporary
    assert first.path.read_bytes() == b"content"
    assert left_in(folder) == [first.path.name], "what the tool left beside it is gone"
    assert keep_artefact(folder, KEY, ".bin", build) == Kept(first.path, cached=True)
    assert build.calls == 1


def test_keys_and_suffixes_do_not_meet(tmp_path):
    paths = {keep_artefact(tmp_path, key, suffix, writes()).path for key in ("aa", "aab") for suffix in (".b", ".c")}
    assert len(paths) == 4


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"contenu")])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    path = keep_artefact(tmp_path, KEY, ".bin", writes()).path
    damage(path)
    build = writes()
    assert keep_artefact(tmp_path, KEY, ".bin", build) == Kept(path, cached=False)
    assert (build.calls, path.read_bytes()) == (1, b"content")
    assert left_in(tmp_path) == [path.name]


def test_a_damaged_file_that_comes_out_otherwise_is_removed(tmp_path):
    old = keep_artefact(tmp_path, KEY, ".bin", writes()).path
    old.write_bytes(b"")
    new = keep_artefact(tmp_path, KEY, ".bin", writes(b"other")).path
    assert new != old
    assert left_in(tmp_path) == [new.name]


@pytest.mark.parametrize("error", [ModelError("no"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing(tmp_path, error):
    def build(path):
        path.write_bytes(b"half of")
        raise error

    with pytest.raises(type(error)):
        keep_artefact(tmp_path, KEY, ".bin", build)
    assert left_in(tmp_path) == []
    assert keep_artefact(tmp_path, KEY, ".bin", writes()).path.read_bytes() == b"content"


def test_what_can_be_found_is_complete(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no more")

    monkeypatch.setattr(Path, "replace", fail)  # all until the file is moved to its place in one step
    with pytest.raises(OSError, match="no more"):
        keep_artefact(tmp_path, KEY, ".bin", writes())
    assert left_in(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / f".{KEY}.abc.part").mkdir()
    (tmp_path / f".{KEY}.abc.part" / "half").write_text("of it")
    (tmp_path / ".other.abc.part").mkdir()
    path = keep_artefact(tmp_path, KEY, ".bin", writes()).path
    assert left_in(tmp_path) == sorted([".other.abc.part", path.name])


def unwritable(tmp_path):
    """A folder that nobody can write, root neither: there is a file in its place."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "cache"


def test_a_folder_that_cannot_be_written_gives_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = unwritable(tmp_path)
    with pytest.warns(RuntimeWarning, match="compiled into a temporary file, since the cache cannot be written: .*file"):
        kept = keep_artefact(folder, KEY, ".bin", writes())
    assert (kept.cached, kept.temporary) == (False, True)
    assert kept.path.read_bytes() == b"content"
    assert left_in(tmp_path) == sorted(["file", kept.path.name]), "nothing else stays"


def test_a_read_only_folder_is_read(tmp_path, monkeypatch):
    path = keep_artefact(tmp_path, KEY, ".bin", writes()).path
    monkeypatch.setattr("os.access", lambda *_: False)
    assert keep_artefact(tmp_path, KEY, ".bin", writes()) == Kept(path, cached=True)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert keep_artefact(tmp_path, "ff", ".bin", writes()).temporary


def test_a_file_system_without_locks_is_enough(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks here")

    (tmp_path / f".{KEY}.alive.part").mkdir()
    monkeypatch.setattr("fcntl.flock", no_locks)
    path = keep_artefact(tmp_path, KEY, ".bin", writes()).path
    assert left_in(tmp_path) == sorted([f".{KEY}.alive.part", path.name]), "another process may be at work in there"


def test_of_two_threads_one_builds_and_one_waits(tmp_path):
    waiting = threading.Event()
    said, kept = [], []

    def say(line):
        said.append(line)
        waiting.set()

    def build(path):
        other = threading.Thread(target=lambda: kept.append(keep_artefact(tmp_path, KEY, ".bin", fail, say=say)))
        other.start()
        assert waiting.wait(20)
        build.other = other
        path.write_bytes(b"content")

    def fail(path):
        raise AssertionError("the second must find what the first built")

    first = keep_artefact(tmp_path, KEY, ".bin", build)
    build.other.join(20)
    assert kept == [Kept(first.path, cached=True)]
    assert said == ["waiting for another process that compiles the same"]


def test_of_several_processes_one_builds(tmp_path):
    """Each writes its number into the log when it builds; all start together."""
    program = """if True:
        import os, sys, time
        from pathlib import Path
        import anybatch
        folder, start = Path(sys.argv[1]), Path(sys.argv[2])
        def build(path):
            with open(folder / "log", "a") as log:
                log.write(f"{os.getpid()}\\n")
            time.sleep(0.3)
            path.write_bytes(b"content")
        print("ready", flush=True)
        sys.stdin.readline()
        print(anybatch.keep_artefact(folder / "cache", "aa", ".bin", build).path)
    """
    command = [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "start")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(paths) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 1


# --- the digest of a model ---


def scale(factor=2.0):
    text = f"scale (float[rows, 3] x) => (float[rows, 3] y) <float two = {{{factor}}}> {{ y = Mul(x, two) }}"
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')


def with_external_data(folder):
    """A model with weights in files: of the graph, of an attribute, of a list of them, and of branches, one in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "sub").mkdir(exist_ok=True)

    def tensor(name, location):
        (folder / location).write_bytes(np.arange(3, dtype=np.float32).tobytes())
        made = numpy_helper.from_array(np.arange(3, dtype=np.float32), name)
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=location)
        return made

    def branch(name, location):
        node = helper.make_node("Constant", [], [name], value=tensor("c", location))
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])])

    nodes = [
        helper.make_node("Constant", [], ["k"], value=tensor("k", "in_node.bin")),
        helper.make_node("If", ["c"], ["i"], then_branch=branch("t", "then.bin"), else_branch=branch("e", "sub/else.bin")),
        helper.make_node("Several", ["x"], ["s"], domain="own", list=[tensor("a", "listed.bin")]),
        helper.make_node("Sum", ["x", "w", "k", "i", "s"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in "xy"]
    cond = numpy_helper.from_array(np.array(True), "c")
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [tensor("w", "w.bin"), cond]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_the_digest_says_whether_models_differ(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(scale(), path)
    assert model_digest(path) == model_digest(path) != model_digest(scale())
    assert model_digest(scale()) == model_digest(scale()) != model_digest(scale(3))
    data = scale().SerializeToString()
    assert model_digest(data) == model_digest(data, scale()) != model_digest(scale(3).SerializeToString())


@pytest.mark.parametrize("location", ["w.bin", "in_node.bin", "listed.bin", "then.bin", "sub/else.bin"])
def test_the_digest_reads_external_data(tmp_path, location):
    path = with_external_data(tmp_path)
    before = model_digest(path)
    assert model_digest(path) == before
    data = bytearray((tmp_path / location).read_bytes())
    data[-1] ^= 1
    (tmp_path / location).write_bytes(data)
    assert model_digest(path) != before
    (tmp_path / location).unlink()
    with pytest.raises(ModelError, match=f"{location}' cannot be read: No such file"):
        model_digest(path)


def test_external_files(tmp_path):
    model = anybatch.read_model(with_external_data(tmp_path))
    assert external_files(model) == ["in_node.bin", "listed.bin", "sub/else.bin", "then.bin", "w.bin"]
    assert external_files(scale()) == []


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "sub/../../w.bin", ""])
def test_external_data_elsewhere_is_refused(location):
    model = scale()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value=location)
    with pytest.raises(ModelError, match="expected a file in the model's folder, or below it"):
        external_files(model)


def test_external_data_of_a_model_without_a_folder(tmp_path):
    path = with_external_data(tmp_path)
    for model in (path.read_bytes(), anybatch.read_model(path)):
        with pytest.raises(ModelError, match="Hand over the model as a file"):
            model_digest(model)


def test_a_digest_of_what_is_no_model():
    with pytest.raises(ModelError, match="no ONNX model"):
        model_digest(b"\xff\xff\xff")
