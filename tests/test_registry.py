"""Finding backends, and opening models with them: broken plugins, names claimed twice, and what `anybatch.open` refuses."""

import subprocess
import sys
from importlib.metadata import EntryPoint, distributions

import numpy as np
import pytest

import anybatch
from anybatch import BackendNotFoundError, BackendUnavailableError, DeviceError, Gears, InputError, ModelError, Registry
from anybatch import _registry as module
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, SAME

GOOD = """
import anybatch
from anybatch.testing import FakeBackend

class Mine(FakeBackend):
    name = {name!r}
    suffixes = frozenset({suffixes!r})

@anybatch.hookimpl
def anybatch_backends():
    return [Mine()]
"""
HOOK = """
import anybatch
from anybatch.testing import FakeBackend

@anybatch.hookimpl
def anybatch_backends():
    {body}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one plugin in a folder on sys.path, and returns its entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def write(source, *, plugin="mine", distribution=None):
        distribution = distribution or f"anybatch-{plugin}"
        name = f"anybatch_plugin_{len(modules)}"
        modules.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[anybatch]\n{plugin} = {name}\n")
        (found,) = distributions(name=distribution, path=[str(tmp_path)])
        (entry_point,) = found.entry_points
        return entry_point

    yield write
    for name in modules:
        sys.modules.pop(name, None)


@pytest.fixture
def install_good(install):
    """Return a function that installs a plugin with a backend of that name."""

    def write(name, *, suffixes=(), distribution=None):
        source = GOOD.format(name=name, suffixes=suffixes)
        return install(source, plugin=name, distribution=distribution)

    return write


@pytest.fixture
def installed(monkeypatch):
    """Return a function that makes these plugins all there is for `anybatch.open`."""

    def only(*entry_points):
        registry = Registry(entry_points)
        monkeypatch.setattr(module, "registry", lambda: registry)
        return registry

    return only


# ------------------------------------------------------------------------------------------------------- broken plugins


def body(text):
    return HOOK.format(body=text)


def offering(attribute):
    return body(f"class Mine(FakeBackend):\n        {attribute}\n    return [Mine()]")


BROKEN = {
    "SDK absent": ("import no_such_sdk", "ModuleNotFoundError: No module named 'no_such_sdk'"),
    "syntax error": ("def (:", "SyntaxError: "),
    "odd error at import": ("raise ValueError('LD_LIBRARY_PATH')", "ValueError: LD_LIBRARY_PATH"),
    "misspelt hook": (
        body("return [FakeBackend()]").replace("def anybatch_backends", "def anybatch_backend"),
        "PluginValidationError: unknown hook 'anybatch_backend' in plugin",
    ),
    "hook with arguments": (
        body("return [FakeBackend()]").replace("anybatch_backends()", "anybatch_backends(config)"),
        "PluginValidationError: Plugin 'mine' for hook 'anybatch_backends'",
    ),
    "no hook": ("", "offers no backend: is anybatch_backends() marked with @anybatch.hookimpl?"),
    "hook without marker": (
        body("return [FakeBackend()]").replace("@anybatch.hookimpl", ""),
        "offers no backend: is anybatch_backends() marked with @anybatch.hookimpl?",
    ),
    "hook raises": (body("raise RuntimeError('no licence')"), "RuntimeError: no licence"),
    "hook returns nothing": (body("return None"), "offers no backend: is anybatch_backends() marked with @anybatch.hookimpl?"),
    "hook returns an empty list": (body("return []"), "offers no backend: "),
    "hook returns no list": (body("return FakeBackend()"), "TypeError: 'FakeBackend' object is not iterable"),
    "hook returns something else": (body("return [FakeBackend(), 42]"), "expected a backend, got 42, which is not one"),
    "exits at import": ("raise SystemExit('no licence')", "SystemExit: no licence"),
    "name is None": (offering("name = None"), "name"),
    "name is a list": (offering("name = ['mine']"), "name"),
    "suffixes are None": (offering("suffixes = None"), "suffixes"),
    "suffixes are a str": (offering("suffixes = '.onnx'"), "suffixes"),
    "class instead of a backend": (body("return [FakeBackend]"), "FakeBackend"),
}


@pytest.mark.parametrize(("source", "message"), [pytest.param(*case, id=name) for name, case in BROKEN.items()])
def test_broken_plugin_is_kept_with_its_cause_and_hides_no_other(install, install_good, source, message):
    before, broken, after = install_good("before"), install(source), install_good("zebra", suffixes=[".zebra"])
    registry = Registry([before, broken, after])
    assert registry.names == ["before", "zebra"]
    assert [registry.get(name).name for name in registry.names] == registry.names
    assert registry.for_suffix(".zebra").name == "zebra"
    (failure,) = registry.failures
    assert (failure.name, failure.distribution) == ("mine", "anybatch-mine")
    assert str(failure).startswith("plugin 'mine' of anybatch-mine: ")
    assert message in str(failure)


def test_interrupt_is_no_failure_of_a_plugin(install):
    with pytest.raises(KeyboardInterrupt):
        Registry([install("raise KeyboardInterrupt")])


def test_failed_plugin_is_unavailable_with_its_error_as_the_cause(install, install_good):
    registry = Registry([install("import no_such_sdk"), install_good("other")])
    with pytest.raises(BackendUnavailableError) as caught:
        registry.get("mine")
    assert str(caught.value) == (
        "backend 'mine' could not be loaded: plugin 'mine' of anybatch-mine: ModuleNotFoundError: No module named 'no_such_sdk'"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert caught.value.__cause__ is registry.failures[0].error


def test_plugin_of_no_distribution():
    registry = Registry([EntryPoint("mine", "no_such_module", "anybatch")])
    assert str(registry.failures[0]) == (
        "plugin 'mine' of an unknown distribution: ModuleNotFoundError: No module named 'no_such_module'"
    )


# ---------------------------------------------------------------------------------------------------------------- names


def test_nothing_is_installed():
    registry = Registry([])
    assert registry.names == []
    assert registry.failures == []
    with pytest.raises(BackendNotFoundError, match=r"no backend 'mine' is installed, only \[\]"):
        registry.get("mine")


def test_unknown_name_lists_what_there_is_and_what_failed(install, install_good):
    registry = Registry([install_good("two"), install_good("one"), install("import no_such_sdk", plugin="broken")])
    with pytest.raises(BackendNotFoundError) as caught:
        registry.get("onw")
    assert str(caught.value) == (
        "no backend 'onw' is installed, only ['one', 'two']; backends come as plugins, such as anybatch-onw; failed to load: "
        "plugin 'broken' of anybatch-broken: ModuleNotFoundError: No module named 'no_such_sdk'"
    )


@pytest.mark.parametrize("swap", [False, True])
def test_name_claimed_twice_is_nobodys(install_good, swap):
    claims = [install_good("mine", suffixes=[".m"], distribution=f"anybatch-{n}") for n in ("first", "second")]
    registry = Registry([*(reversed(claims) if swap else claims), install_good("other", suffixes=[".o"])])
    assert registry.names == ["mine", "other"]
    assert sorted(registry.distribution("mine").split(", ")) == ["anybatch-first", "anybatch-second"]
    for ask in (lambda: registry.get("mine"), lambda: registry.for_suffix(".m")):
        with pytest.raises(BackendNotFoundError, match="'mine' is claimed by .*: uninstall all but one of them") as caught:
            ask()
        assert "anybatch-first" in str(caught.value)
        assert "anybatch-second" in str(caught.value)
    assert registry.get("other").name == "other"
    assert registry.for_suffix(".o").name == "other"
    assert registry.failures == []


def test_plugin_may_offer_several_backends(install):
    source = body("return [type('B', (FakeBackend,), {'name': name})() for name in ('one', 'two')]")
    assert Registry([install(source)]).names == ["one", "two"]


def test_distribution_of_a_backend(install_good):
    assert Registry([install_good("mine")]).distribution("mine") == "anybatch-mine"


# ------------------------------------------------------------------------------------------------------------- suffixes


def test_suffix_of_one_backend(install_good):
    registry = Registry([install_good("mine", suffixes=[".m", ".mm"]), install_good("other", suffixes=[".o"])])
    assert [registry.for_suffix(suffix).name for suffix in (".m", ".mm", ".o")] == ["mine", "mine", "other"]


def test_suffix_of_no_backend_names_what_is_installed_and_what_failed(install, install_good):
    registry = Registry([install_good("mine", suffixes=[".m"]), install("import no_such_sdk", plugin="ascend")])
    with pytest.raises(BackendNotFoundError) as caught:
        registry.for_suffix(".om")
    assert str(caught.value).startswith("no installed backend opens '.om' files by default; installed are ['mine']; ")
    assert str(caught.value).endswith(
        "; failed to load: plugin 'ascend' of anybatch-ascend: ModuleNotFoundError: No module named 'no_such_sdk'"
    )


def test_suffix_of_several_backends_is_left_to_the_caller(install_good):
    registry = Registry([install_good("two", suffixes=[".m"]), install_good("one", suffixes=[".m", ".o"])])
    with pytest.raises(BackendNotFoundError) as caught:
        registry.for_suffix(".m")
    assert str(caught.value) == "several backends open '.m' files: ['one', 'two']; name one with backend="
    assert registry.for_suffix(".o").name == "one"


# ---------------------------------------------------------------------------------------------------- what is installed


def test_embedded_backend_is_installed_like_any_other():
    assert "onnxruntime" in anybatch.available_backends()
    assert anybatch.available_backends() == anybatch.registry().names
    assert anybatch.registry() is anybatch.registry()
    assert anybatch.registry().distribution("onnxruntime") == "anybatch"
    assert anybatch.registry().for_suffix(".onnx").name == "onnxruntime"


def test_listing_imports_no_sdk(install, tmp_path):
    (tmp_path / "vendor_sdk.py").touch()
    install(GOOD.format(name="mine", suffixes=()) + SDK_IN_OPEN)
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import anybatch
        from anybatch.testing.models import AFFINE
        print(anybatch.available_backends().count("mine"), anybatch.registry().get("mine").check_usable())
        print("vendor_sdk" in sys.modules)
        anybatch.open(AFFINE.onnx_bytes, backend="mine").close()
        print("vendor_sdk" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1 NumPy, in memory\nFalse\nTrue\n", "")


SDK_IN_OPEN = """
def open_with_sdk(self, *arguments, **options):
    import vendor_sdk
    return FakeBackend.open(self, *arguments, **options)

Mine.open = open_with_sdk
"""


# ---------------------------------------------------------------------------------------------------------- open_model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "affine.onnx"
    path.write_bytes(AFFINE.onnx_bytes)
    return path


def test_file_goes_to_the_backend_of_its_suffix(installed, install_good, model):
    installed(install_good("mine", suffixes=[".onnx"]), install_good("other", suffixes=[".om"]))
    shouted = model.rename(model.with_suffix(".ONNX"))
    for source in (shouted, str(shouted), AFFINE.onnx_bytes, bytearray(AFFINE.onnx_bytes), AFFINE.proto()):
        with anybatch.open(source) as runner:
            assert runner.backend == "mine"


def test_no_other_backend_opens_a_file_of_unknown_suffix(installed, install_good, model):
    installed(install_good("mine", suffixes=[".onnx"]))
    with pytest.raises(BackendNotFoundError, match=r"opens '\.om' files by default; installed are \['mine'\]"):
        anybatch.open(model.rename(model.with_suffix(".om")))


def test_no_other_backend_replaces_one_that_failed(installed, install, install_good, model):
    registry = installed(install_good("mine", suffixes=[".onnx"]), install("import no_such_sdk", plugin="ascend"))
    with pytest.raises(BackendUnavailableError, match="backend 'ascend' could not be loaded"):
        anybatch.open(model, backend="ascend")
    assert registry.get("mine").calls == {}


def test_unknown_backend(installed, install_good, model):
    installed(install_good("mine"))
    with pytest.raises(BackendNotFoundError, match=r"^no backend 'other' is installed, only \['mine'\]; .*anybatch-other$"):
        anybatch.open(model, backend="other")


def test_device_sizes_and_options_reach_the_backend(model):
    asked = {}

    class Asked(FakeBackend):
        def open(self, model, **arguments):
            asked.update(model=model, **arguments)
            return super().open(model, **{**arguments, "device": 0, "options": {}})

    with anybatch.open(str(model), backend=Asked(), device=3, batch_sizes=[8, 2], colour="red") as runner:
        assert runner.batching == anybatch.Gears((2, 8))
    assert asked == {"model": model, "device": 3, "batch_sizes": (2, 8), "options": {"colour": "red"}}


REFUSED = {
    "device -1": ({"device": -1}, "expected device to be an index >= 0, got -1"),
    "device True": ({"device": True}, "expected device to be an index >= 0, got True"),
    "device 1.0": ({"device": 1.0}, "expected device to be an index >= 0, got 1.0"),
    "device '0'": ({"device": "0"}, "expected device to be an index >= 0, got '0'"),
    "batch size 0": ({"batch_sizes": [4, 0]}, "expected batch sizes to be ints of at least 1, got 0"),
    "batch size -1": ({"batch_sizes": [-1]}, "expected batch sizes to be ints of at least 1, got -1"),
    "batch size 1.5": ({"batch_sizes": [1.5]}, "expected batch sizes to be ints of at least 1, got 1.5"),
    "batch size True": ({"batch_sizes": [True]}, "expected batch sizes to be ints of at least 1, got True"),
    "batch size twice": ({"batch_sizes": [4, 1, 4]}, "expected each batch size once, got 4 twice"),
    "batch sizes '4'": ({"batch_sizes": "4"}, "expected a list of batch sizes such as [1, 4, 8], got '4'"),
    "batch sizes 4": ({"batch_sizes": 4}, "expected a list of batch sizes such as [1, 4, 8], got 4"),
    "no batch sizes": ({"batch_sizes": []}, "expected at least one batch size, got none"),
    "negative cost": ({"costs": {1: -1.0}}, "expected a positive, finite cost for batch size 1, got -1.0"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_arguments_are_checked_before_anything_is_opened(arguments, message):
    backend = FakeBackend()
    with pytest.raises(InputError) as caught:
        anybatch.open(AFFINE.onnx_bytes, backend=backend, **arguments)
    assert str(caught.value) == message
    assert backend.calls == {}


@pytest.mark.parametrize("backend", [42, b"onnxruntime", ["onnxruntime"], object()])
def test_backend_of_another_type(backend):
    with pytest.raises(InputError) as caught:
        anybatch.open(AFFINE.onnx_bytes, backend=backend)
    assert str(caught.value) == f"expected backend to be a name or a backend, got {backend!r}"


@pytest.mark.parametrize("model", [None, 42, ["model.onnx"], object()], ids=lambda model: type(model).__name__)
def test_model_of_another_type(model):
    with pytest.raises(InputError) as caught:
        anybatch.open(model, backend=FakeBackend())
    expected = f"expected a path, the bytes of a model or an onnx.ModelProto, got {type(model).__name__}"
    assert str(caught.value) == expected


def test_file_that_is_not_there(tmp_path):
    for path, what in ((tmp_path / "none.onnx", "does not exist"), (tmp_path, "is a folder")):
        for source in (path, str(path)):
            with pytest.raises(ModelError) as caught:
                anybatch.open(source, backend=FakeBackend())
            assert str(caught.value) == f"expected a model file, but {str(path)!r} {what}"


UNFIT = {
    "padding": ({"padding": "mirror"}, "expected padding to be 'zero', 'repeat' or a mapping"),
    "padding of no input": ({"padding": {"table": 1}}, "padding names 'table', which is no input with rows; those are ['x']"),
    "policy": ({"policy": "best"}, "expected policy to be one of ['least_cost', "),
    "costs": ({"costs": {1: 1.0}}, "no cost for batch size 4, only for [1]: give one for each batch size"),
    "combine of no output": (
        {"combine": {"z": "sum"}},
        "combine names 'z', which is no output; the outputs are ['y', 'doubled']",
    ),
    "combine": ({"combine": {"doubled": "product"}}, "'doubled': expected combine to be one of ('same', "),
}


@pytest.mark.parametrize(("arguments", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_nothing_stays_open_when_no_runner_can_be_made(arguments, message):
    backend = FakeBackend()
    with pytest.raises(InputError) as caught:
        anybatch.open(SAME.onnx_bytes, backend=backend, **arguments)
    assert str(caught.value).startswith(message)
    assert (backend.calls, backend.alive) == ({"open": 1, "close": 1}, 0)


def test_backend_that_fails_to_open_is_not_closed():
    error = DeviceError("out of memory", backend="fake", operation="load")
    backend = FakeBackend(faults={("open", 1): error})
    with pytest.raises(DeviceError) as caught:
        anybatch.open(AFFINE.onnx_bytes, backend=backend)
    assert caught.value is error
    assert backend.calls == {"open": 1}


def test_unknown_option_is_refused_by_the_backend():
    with pytest.raises(InputError, match="backend 'fake' has no option 'colour'"):
        anybatch.open(AFFINE.onnx_bytes, backend=FakeBackend(), colour="red")


def test_closing_error_is_attached_to_the_one_to_act_on():
    backend = FakeBackend(faults={("close", 1): DeviceError("stuck", backend="fake", operation="close")})
    with pytest.raises(InputError, match="padding") as caught:
        anybatch.open(AFFINE.onnx_bytes, backend=backend, padding="nope")
    assert isinstance(caught.value.__cause__, DeviceError)


def test_costs_of_no_known_kind():
    backend = FakeBackend()
    with pytest.raises(InputError, match="expected costs as AffineCosts, TableCosts or a mapping of sizes to costs, got 3"):
        anybatch.open(AFFINE.onnx_bytes, backend=backend, costs=3)
    assert backend.alive == 0


def test_a_text_as_costs_is_the_file_of_a_calibration():
    backend = FakeBackend()
    with pytest.raises(InputError, match="the calibration 'cheap' cannot be read: No such file or directory"):
        anybatch.open(AFFINE.onnx_bytes, backend=backend, costs="cheap")
    assert backend.calls == {}


def test_numpy_integers_are_device_indices():
    anybatch.open(AFFINE.onnx_bytes, backend=FakeBackend(), device=np.int64(0)).close()


def test_empty_path():
    with pytest.raises(ModelError, match="expected a model file, got an empty path"):
        anybatch.open("")


@pytest.mark.parametrize(("concurrency", "corrects"), [(None, False), (2, True)])
def test_launches_correct_a_calibration_where_the_session_has_a_device_of_its_own(concurrency, corrects):
    """Unless the caller says otherwise: on a shared processor corrected plans were worse."""
    backend = FakeBackend(Gears((1, 4)), concurrency=concurrency)
    for adapt, wanted in ((None, corrects), (True, True), (False, False)):
        with anybatch.open(AFFINE.onnx_bytes, backend=backend, adapt=adapt) as runner:
            runner.calibrate(seconds=0.01, save=False)
            assert (runner._live is not None) == wanted
