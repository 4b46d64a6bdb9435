"""The examples do what their pages say: the demo, the toy plugin once installed, and what the READMEs quote.

Nothing here needs a network. Installing means what a wheel's installer does: the package in a folder on sys.path, and beside
it a dist-info folder, made from the plugin's own pyproject.toml. Nothing else tells importlib.metadata that it is there.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

import anybatch
from anybatch.testing import BackendConformance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest depends on it there

EXAMPLES = Path(__file__).parents[1] / "examples"
READMES = sorted(EXAMPLES.glob("*/README.md"))
PAGES = [*READMES, EXAMPLES.parent / "README.md", EXAMPLES.parent / "plugins" / "ascend" / "README.md"]
# Commands in the READMEs that are not run here, and why.
NOT_RUN = {
    "python -m pip install -e '.[testing]' -e examples/02_toy_backend": "needs a network; `install` does its work",
    "python -m pip install -r requirements.txt": "needs a network",
    "python -m pip install ./plugins/ascend ./plugins/ascend-sim": "needs a network; `make test` does its work",
    "anybatch calibrate examples/01_digits/digits.onnx --batch-sizes 1,4,8,16": "prints what it measures",
    "anybatch compare examples/01_digits/digits.onnx --on onnxruntime --on ascend-sim:batch_sizes=1,4 --batch-sizes 0,1,3,9 "
    "--seconds 0": "distances in last bits depend on the processor",
    "python examples/05_compare/compare.py": "prints what it measures; see below",
    "python examples/05_compare/gears.py": "launches side by side end in the order of the threads; see below",
    "python train.py": "needs torch and minutes",
    "python train.py --check": "needs torch and minutes",
}
if find_spec("mlperf_loadgen") is None:
    NOT_RUN["python examples/06_loadgen/scenarios.py"] = "there are no wheels of the load generator for this kind of machine"


def install(project, target):
    """Install a pure Python project with a src layout into a folder."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    shutil.copytree(project / "src", target, dirs_exist_ok=True)
    info = target / f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info"
    info.mkdir()
    fields = f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: {metadata['version']}\n"
    (info / "METADATA").write_text(fields)
    lines = [
        f"[{group}]\n{name} = {value}\n" for group, each in metadata["entry-points"].items() for name, value in each.items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what the examples compile apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with a copy of the examples, and the toy plugin installed in ``site``."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    install(folder / "examples" / "02_toy_backend", folder / "site")
    return folder


@pytest.fixture(scope="session")
def shell(place, own_cache):
    """Return a function that runs a command there, with the plugin installed, and returns exit status and output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COLUMNS", "FORCE_COLOR"))}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONPATH"] = os.pathsep.join([str(place / "site"), *filter(None, [env.get("PYTHONPATH")])])
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"}

    def call(*command, **variables):
        done = subprocess.run(
            command, cwd=place, env=env | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, done.stdout

    return call


@pytest.fixture(scope="session")
def python(shell):
    """Return a function that runs a Python program there and returns what it prints, once it has ended well."""

    def call(*arguments, **variables):
        code, output = shell(sys.executable, *arguments, **variables)
        assert code == 0, output
        return output

    return call


# ------------------------------------------------------------------------------------------------------------ the digits


def demo(folder):
    """Run the demo in this process and return its exit status; warnings are errors, as in all tests."""
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(folder / "demo.py"), run_name="__main__")
    return exit_.value.code


def test_demo_classifies_every_request(python):
    output = python("examples/01_digits/demo.py")
    assert output.count("588 of 600 digits right (98.0%); 600 of 600 rows equal to the one-row answer\n") == 6
    half = "600 of 600 rows equal to the one-row answer\n  of the CPU, within half precision: off by at most "
    assert output.count("ascend-sim, a simulated card, gears 1, 4, 16, 64\n") == output.count(half) == 1
    assert output.count("ipu-sim, a simulated IPU, batches of 16, padded by ") == 2
    assert "padded by PopRT\n" in output
    assert output.count("  at most 72 rows of padding (10.7%): rows of other requests fill batches too\n") == 1
    assert "padded by anybatch\n" in output
    assert output.count("  72 rows of padding (10.7%)\n") == 1
    assert output.endswith("\nevery row came back, right and in order\n")
    assert "WARN" not in output


def test_demo_shows_no_times_of_simulators(python):
    output = python("examples/01_digits/demo.py")
    sections = [section for section in output.split("\n\n") if "launches: " in section]
    assert len(sections) == 6
    simulated = ["-sim, a simulated " in section.splitlines()[0] for section in sections]
    assert simulated == [False, False, False, True, True, True]
    for section, is_simulated in zip(sections, simulated, strict=True):
        assert bool(re.search(r"\d m?s\b", section)) != is_simulated, section
        assert ("10 requests, 600 rows; no time to show: a simulator ran them\n" in section) == is_simulated


def test_demo_says_what_it_leaves_out(place, monkeypatch, capsys):
    monkeypatch.setattr(anybatch, "available_backends", lambda: ["onnxruntime"])
    assert demo(place / "examples" / "01_digits") == 0
    output = capsys.readouterr().out
    assert output.count("one-row answer") == 3
    assert "the backend ascend-sim is not installed: pip install ./plugins/ascend ./plugins/ascend-sim\n" in output
    assert output.count("the backend ipu-sim is not installed: pip install ./plugins/ipu ./plugins/ipu-sim\n") == 2


def test_demo_fails_when_labels_are_wrong(place, tmp_path, capsys):
    folder = shutil.copytree(place / "examples" / "01_digits", tmp_path / "digits")
    with np.load(folder / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    np.savez(folder / "test_set.npz", images=images, labels=(labels + 1) % 10)
    assert demo(folder) == 1
    assert capsys.readouterr().out.endswith("a row differs, or too few digits are right\n")


def test_demo_fails_when_two_rows_change_places(place, monkeypatch, capsys):
    original = anybatch.Runner.map

    def swapped(self, requests):
        for outputs in original(self, requests):
            yield {name: array[[1, 0, *range(2, len(array))]] if len(array) == 64 else array for name, array in outputs.items()}

    monkeypatch.setattr(anybatch.Runner, "map", swapped)
    assert demo(place / "examples" / "01_digits") == 1
    output = capsys.readouterr().out
    assert "598 of 600 rows equal to the one-row answer" in output
    assert output.endswith("a row differs, or too few digits are right\n")


def test_page_on_digits_describes_the_files(place):
    folder = place / "examples" / "01_digits"
    page = (folder / "README.md").read_text()
    model = onnx.load(folder / "digits.onnx")
    nodes = ", ".join(f"`{node.name}`" for node in model.graph.node)
    assert nodes in " ".join(page.split())
    assert f"opset {model.opset_import[0].version}, IR {model.ir_version}" in page
    with np.load(folder / "test_set.npz") as test_set:
        assert f"{len(test_set['labels'])} images" in page
    for name in ("digits.onnx", "test_set.npz"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        assert f"{(folder / name).stat().st_size / 1000:.0f} kB" in row


# ------------------------------------------------------------------------------------------------------ the Ascend pages


@pytest.mark.parametrize("name", ["dynamic_batch", "model_execution", "async_callback"])
def test_on_a_card_one_word_changes(python, place, tmp_path, name):
    """What stands in for the card is the simulator, as the program's `acl` and as the `atc` on the PATH."""
    program = (place / "examples" / "03_ascend" / f"{name}.py").read_text()
    word = 'BACKEND = "ascend-sim"  # on a card: "ascend"\n'
    assert program.count(word) == 1
    changed = place / "examples" / "03_ascend" / f"{name}_on_a_card.py"
    changed.write_text(program.replace(word, 'BACKEND = "ascend"\n'))
    atc = tmp_path / "atc"
    atc.write_text(f'#!/bin/sh\nexec {sys.executable} -m acl_sim.atc "$@"\n')
    atc.chmod(0o755)

    output = python("-m", "acl_sim", "--check", changed, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert output.startswith(("on ascend\n", "on ascend:", "compiled for ascend:"))
    printed, ledger, _ = output.partition("acl_sim ledger: 0 violations, 0 leaks")
    assert ledger
    assert "simulat" not in printed


# -------------------------------------------------------------------------------------------------------- the comparisons


def test_the_digits_are_compared_and_a_page_is_named(python, place):
    output = python("examples/05_compare/compare.py")
    assert output.startswith("pass: 600 digits on 4 backends\n")
    assert output.count("the same digit in 100.0% of the rows\n") == 3
    times = [line for line in output.splitlines() if " rows in " in line]
    assert len(times) == 4
    assert [line.endswith("(modelled: no hardware was measured)") for line in times] == [False, False, True, True]
    assert [line.endswith("(measured here)") for line in times] == [True, True, False, False]
    page = place / "examples" / "05_compare" / "compare.html"
    assert output.endswith(f"the whole comparison, to look at and to send on: {page}\n")
    assert "✓ Pass" in page.read_text(encoding="utf-8")
    page.unlink()


def test_the_gate_refuses_a_model_that_lost_accuracy(shell, place, tmp_path):
    model = onnx.load(place / "examples" / "01_digits" / "digits.onnx")
    for weights in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weights)
        if array.dtype == np.float32:
            weights.CopyFrom(onnx.numpy_helper.from_array(np.round(array * 8) / 8, weights.name))
    onnx.save(model, tmp_path / "coarse.onnx")
    report = tmp_path / "report.xml"
    code, output = shell(sys.executable, "examples/05_compare/gate.py", str(tmp_path / "coarse.onnx"), "--junit", str(report))
    assert code == 1
    assert output.startswith("refused: new: output 'scores' is off in 8 of 9 cases, ")
    assert "refused: another digit wins in 1.6% of the rows, where 0.5% may\n" in output
    assert "digits right, and 588 before\n" in output
    assert "<failure" in report.read_text(encoding="utf-8")


def test_sets_of_gears_are_compared_by_modelled_time(python):
    output = python("examples/05_compare/gears.py").splitlines()
    assert output[0].startswith("device clock of acl_sim, modelled by ")
    rows = [line.split() for line in output[2:12]]
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5, 7, 8, 9, 13, 20]
    by_rows = {int(row[0]): row for row in rows}
    assert float(by_rows[2][-1].rstrip("%")) < 100, "two rows are one launch of gear 2, and two launches of gear 1"
    assert [line.split(":")[1].split(",")[0] for line in output[12:]] == [" pass", " pass"]


# ------------------------------------------------------------------------------------------------------ the toy backend


def test_toy_is_found_once_installed(python, place):
    program = """if True:
        import sys
        import anybatch
        names, registry = anybatch.available_backends(), anybatch.registry()
        print("toy" in names, registry.distribution("toy"), registry.failures)
        print(sys.modules["anybatch_toy"].__file__, "onnx.reference" in sys.modules)
    """
    module = place / "site" / "anybatch_toy" / "__init__.py"
    assert python("-c", program) == f"True anybatch-toy []\n{module} False\n"


def test_toy_is_usable_from_the_command_line(python):
    listing = json.loads(python("-m", "anybatch", "backends", "toy", "--run", "--json"))
    (toy,) = listing["backends"]
    assert (toy["name"], toy["distribution"], toy["usable"], toy["run"]["passed"]) == ("toy", "anybatch-toy", True, True)


def test_toy_runs_seven_rows(python, place):
    rng = np.random.default_rng(7)
    images = rng.integers(0, 17, (7, 1, 8, 8)).astype(np.float32)
    np.save(place / "images.npy", images)
    program = """if True:
        import anybatch, numpy
        with anybatch.open("examples/01_digits/digits.onnx", backend="toy") as runner:
            numpy.save("scores.npy", runner(numpy.load("images.npy")))
            print(runner.stats().launches)
    """
    assert python("-c", program) == "{4: 2}\n"
    with anybatch.open(EXAMPLES / "01_digits" / "digits.onnx") as runner:
        np.testing.assert_allclose(np.load(place / "scores.npy"), runner(images), rtol=1e-4, atol=1e-4)


def test_toy_passes_the_whole_kit(python):
    checks = [name for name in dir(BackendConformance) if name.startswith("test_")]
    output = python("-m", "pytest", "-q", "-rA", "examples/02_toy_backend")
    passed = set(re.findall(r"^PASSED .*::(\w+)$", output, re.MULTILINE))
    assert checks
    assert passed == set(checks), output


# ---------------------------------------------------------------------------------------------------------- the READMEs


def blocks(page):
    """Return the fenced blocks of a page, as (language, text)."""
    fences = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, re.sub(f"(?m)^{indent}", "", text)) for indent, language, text in fences]


def masked(text):
    """Return output without what differs from one machine, and one run, to the next: versions, times, counts of checks, and
    of callbacks, which depend on how threads take turns.
    """
    text = re.sub(r"(?m)^(\.+ +\[ *\d+%\]\n)+", "<progress>\n", text)
    text = re.sub(r"\d+(\.\d+)+(e[+-]\d+)?|\d+(?= passed| callbacks)", "<number>", text)
    return re.sub(" +", " ", text)


def test_every_example_has_a_page():
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    assert len(folders) >= 2
    assert sorted(folder / "README.md" for folder in folders) == READMES


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_files_named_in_a_page_exist(page):
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        name = row.split("`")[1]
        assert (page.parent / name).is_file(), f"{page}: there is no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_consoles_in_a_page_are_real(page, shell, place):
    consoles = [text for language, text in blocks(page) if language == "console"]
    assert consoles
    for command, printed in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", "".join(consoles), re.MULTILINE):
        if command in NOT_RUN:
            continue
        code, output = shell("sh", "-c", command)
        assert code == 0, output
        assert masked(output.replace(str(place), "/home/you")) == masked(printed), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_programs_in_a_page_print_what_it_says(page, python):
    found = [*blocks(page), ("", "")]
    for (language, text), following in pairwise(found):
        if language == "python" and "import" in text:
            assert following[0] == "text", "expected the output to follow the program"
            assert python("-c", text) == following[1]
        elif language == "python":  # an excerpt, from a place where the public names are known
            exec(text, {**vars(anybatch), **vars(anybatch.testing)})
