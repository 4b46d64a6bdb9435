"""How the modules lie on one another, what may be named where, and what `import anybatch` brings with it."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import anybatch

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "anybatch"

# Every module, lowest first: each imports only what stands above its own line. "" is the package, the public names.
ORDER = [
    "_version",
    "_errors",
    "_whole_files",
    "_ticks",
    "_tensors",
    "_batching",
    "_costs",
    "_planner",
    "_trace",
    "_advisor",
    "_backend",
    "_hookspecs",
    "_onnx_spec",
    "_artefacts",
    "_samples",
    "_trial",
    "_calibration",
    "_drift",
    "_rebatch",
    "safety._sizes",
    "safety._domain",
    "safety._call",
    "safety._broadcast",
    "safety._rules_entry",
    "safety._rules_axis",
    "safety._rules_layout",
    "safety._rules_place",
    "safety._own_number",
    "safety._rules_product",
    "safety._rules_quantised",
    "safety._rules_window",
    "safety._rules_sequence",
    "safety._rules_collection",
    "safety._rules_control",
    "safety._rules_other",
    "safety._operators",
    "safety._entries",
    "safety._engine",
    "safety._picture",
    "safety._result",
    "safety._axes",
    "safety._analysis",
    "safety._freed",
    "safety",
    "_backends",
    "_backends._onnxruntime_session",
    "_backends.onnxruntime",
    "_staging",
    "_pipeline",
    "_guard",
    "_runner",
    "_registry",
    "_freeing",
    "_compiling",
    "_bench",
    "comparison._results",
    "comparison._entries",
    "comparison._tolerances",
    "comparison._metrics",
    "comparison._faults",
    "comparison._accuracy",
    "comparison._speed",
    "comparison._cuts",
    "comparison._divergence",
    "comparison._compare",
    "comparison._document",
    "comparison._junit",
    "comparison._svg",
    "comparison._charts",
    "comparison._page",
    "comparison._save",
    "comparison",
    "",
    "loadgen",
    "plots",
    "testing.models",
    "testing.strategies",
    "testing.fake",
    "testing.conformance",
    "testing",
    "_cli._output",
    "_cli._files",
    "_cli._arguments",
    "_cli.backends",
    "_cli.compile",
    "_cli.inspect",
    "_cli.plan",
    "_cli.advise",
    "_cli.run",
    "_cli.bench",
    "_cli.loadgen",
    "_cli.calibrate",
    "_cli.check",
    "_cli.compare",
    "_cli",
    "__main__",
]

# Libraries that only some modules may import, by the beginning of their names.
ONLY_IN = {
    "onnx": (
        "_artefacts",
        "_backend",
        "_compiling",
        "_freeing",
        "_onnx_spec",
        "_rebatch",
        "comparison._cuts",
        "comparison._divergence",
        "safety",
        "testing",
        "_cli.backends",
        "_cli.check",
    ),
    "onnxruntime": ("_backends",),
    "pluggy": ("_hookspecs", "_registry"),
    "pytest": ("testing",),
    "hypothesis": ("testing",),
    "typer": ("_cli",),
    "rich": ("_cli._output",),
    "matplotlib": ("plots",),
    "jinja2": ("comparison._page",),
    "mlperf_loadgen": ("loadgen",),
}

VENDORS = ("acl", "ascend", "poprt", "graphcore", "cann", "openvino", "tensorrt")
# Where the core names one of them all the same, and why.
NAMED = {
    ("_planner.py", "tensorrt"): "whose users' habit a policy is",
    ("_planner.py", "poprt"): "whose habit a policy is",
}


def name_of(path):
    """Return the name of a module of the core, without the package's."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in CORE.rglob("*.py")}


@cache
def imports(path):
    """Return all that a file imports, also within functions and for type checkers only, as (module, name or None)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports, so that they can be searched"
            found += [(node.module, alias.name) for alias in node.names]
    return found


def core_imports(path):
    """Return the modules of the core that a file imports, by name without the package's."""
    for module, name in imports(path):
        if module.split(".")[0] == "anybatch":
            inner = module.removeprefix("anybatch").removeprefix(".")
            member = f"{inner}.{name}".removeprefix(".")
            yield member if name and member in MODULES else inner


def programs(folder):
    """Return all Python files of a folder, without those of hidden folders such as virtual environments."""
    return [path for path in folder.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def in_python(program, *arguments):
    """Run a program in a new interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------------------------- the layers


def test_every_module_has_its_place():
    assert len(set(ORDER)) == len(ORDER)
    assert sorted(MODULES) == sorted(ORDER), "give a new module its line in ORDER"


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_one_way(module):
    below = ORDER[: ORDER.index(module)]
    for other in core_imports(MODULES[module]):
        assert other in below, f"anybatch.{module} imports anybatch.{other}, which does not lie below it"


def test_nothing_imports_a_backend():
    importers = {module for module, path in MODULES.items() if any(each.startswith("_backends") for each in core_imports(path))}
    own = {module for module in importers if module.startswith("_backends")}
    assert importers == own, "backends are found by entry point, the embedded one too"


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_in_its_place(library):
    users = {module for module, path in MODULES.items() for each, _ in imports(path) if each.split(".")[0] == library}
    assert users, "nobody imports it any more"
    assert {user for user in users if not user.startswith(ONLY_IN[library])} == set()


def test_kit_uses_public_names_only():
    check_public([path for module, path in MODULES.items() if module.startswith("testing")])


def test_plugins_and_examples_use_public_names_only():
    check_public([*programs(ROOT / "plugins"), *programs(ROOT / "examples")])


def check_public(paths):
    seen = 0
    for path in paths:
        for module, name in imports(path):
            dotted = f"{module}.{name or ''}"
            if dotted.startswith("anybatch."):
                seen += 1
                assert not any(part.startswith("_") for part in dotted.split(".")), f"{path} imports {dotted}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "anybatch":
                assert not node.attr.startswith("_"), f"{path} uses anybatch.{node.attr}"
    assert seen, "none of these files uses anybatch at all"


def test_core_names_no_vendor():
    # Whole words of any case, also as a part of a name: acl_sim and AscendBackend, but neither "dataclass" nor "ascending".
    word = re.compile(f"(?<![A-Za-z])(?i:({'|'.join(VENDORS)}))(?![a-z])")
    assert word.findall("acl_sim AscendBackend PopRT's dataclass ascending cannot") == ["acl", "Ascend", "PopRT"]
    found = {
        (path.relative_to(CORE).as_posix(), match.lower())
        for module, path in MODULES.items()
        if not module.startswith("_backends")
        for match in word.findall(path.read_text(encoding="utf-8"))
    }
    assert found == set(NAMED)


# --------------------------------------------------------------------------------------------------------- public names


def test_public_names_are_complete_and_sorted():
    def place(name):  # as ruff sorts them: constants, classes, all others
        return (not name.isupper(), not name[0].isupper(), name)

    assert anybatch.__all__ == sorted(set(anybatch.__all__), key=place)
    visible = {name for name, value in vars(anybatch).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert visible == set(anybatch.__all__)


def test_every_error_is_public():
    errors = {name for name, value in vars(anybatch._errors).items() if inspect.isclass(value)}
    assert errors
    assert errors <= set(anybatch.__all__)


@pytest.mark.parametrize("package", ["anybatch", "anybatch.plots", "anybatch.testing"])
def test_every_public_name_is_described(package):
    module = importlib.import_module(package)
    values = [getattr(module, name) for name in module.__all__]
    # An alias such as Array passes for a class in some versions of Python; it belongs to NumPy.
    described = [v for v in values if (inspect.isclass(v) or inspect.isfunction(v)) and v.__module__.startswith("anybatch")]
    assert described
    for value in described:
        text = (value.__doc__ or "").strip()
        assert text, f"{value.__qualname__} has no docstring"
        assert not text.startswith(f"{value.__name__}("), f"{value.__qualname__} has only the docstring that dataclass writes"


# ------------------------------------------------------------------------------------------------- what an import brings


@pytest.mark.parametrize(
    "program",
    [
        "import anybatch",
        "import anybatch.plots",
        """if True:
            import anybatch
            for name in anybatch.available_backends():
                try:
                    anybatch.registry().get(name).check_usable()
                except anybatch.BackendUnavailableError:  # hardware that this machine lacks
                    pass
        """,
    ],
    ids=["import", "plots", "list"],
)
def test_importing_and_listing_bring_nothing_that_is_not_needed_yet(program):
    unwanted = (
        "typer",
        "rich",
        "onnxruntime",
        "onnx",
        "onnx.reference",
        "pytest",
        "hypothesis",
        "asyncio",
        "matplotlib",
        "jinja2",
    )
    program += "\nimport sys; print([name for name in sys.argv[1:] if name in sys.modules])"
    assert in_python(program, *unwanted, "anybatch") == "['anybatch']\n"


def test_every_module_can_be_imported_first():
    program = """if True:
        import importlib, sys
        for module in sys.argv[1:]:
            for name in [name for name in sys.modules if name.split(".")[0] == "anybatch"]:
                del sys.modules[name]
            importlib.import_module(module)
            print(module)
    """
    modules = [f"anybatch.{module}".rstrip(".") for module in ORDER if module != "__main__"]  # that one runs the command line
    assert in_python(program, *modules).split() == modules
