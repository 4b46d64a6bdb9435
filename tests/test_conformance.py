"""The kit on the backends of this distribution: the fake in every kind of batching, and the embedded one; and its own rules."""

import inspect
import threading
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest

import anybatch
from anybatch import AnyBatch, Backend, ClosedError, DeviceError, Gears, InputError, Launch, ModelError, MultipleOf
from anybatch.testing import MODELS, BackendConformance, FakeBackend, Gap, ReferenceModel, conformance
from anybatch.testing.models import AFFINE, ROWS_TIMES_3, SEVERAL, TABLE


class TestFakeGears(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend(Gears((1, 4, 8)))


class TestFakeGearsWithoutOne(BackendConformance):
    batch_sizes = (3, 5)

    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend(concurrency=2)


class TestFakePaddingGears(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend(Gears((1, 4, 8), pads=True), concurrency=3)


class TestFakeMultiple(BackendConformance):
    batch_sizes = (4,)

    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend(MultipleOf(4), concurrency=1)


class TestFakeAny(BackendConformance):
    batch_sizes = None

    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend(AnyBatch())


class TestOnnxRuntimeGears(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return anybatch.registry().get("onnxruntime")

    def open_options(self, model: ReferenceModel) -> Mapping[str, object]:
        # The one thing about rows that no ONNX file says.
        return {"rows_per_row": model.rows_per_row} if model is ROWS_TIMES_3 else {}


class TestOnnxRuntimeAny(TestOnnxRuntimeGears):
    batch_sizes = None


# ---------------------------------------------------------------------------------------------------------- the kit's rules

NO_TABLE = [model for model in MODELS if model is not TABLE]


class GapOfAModel(BackendConformance):
    gaps: ClassVar = {"table": Gap(ModelError, "no tables yet", "ours to do")}


class GapOfACheck(BackendConformance):
    gaps: ClassVar = {"test_impossible_device_is_refused": Gap(AssertionError, "it has but one device", "never")}


class AnyDevice(FakeBackend):
    def open(self, *args, device, **options):
        return super().open(*args, device=0, **options)


def test_a_gap_of_a_model_is_expected_in_every_check_that_opens_it() -> None:
    backend = FakeBackend(models=NO_TABLE)

    for check in ("test_unbatched_input", "test_inputs_are_only_read", "test_inputs_are_not_kept"):
        with pytest.raises(pytest.xfail.Exception, match=r"ours to do: no tables yet \(ModelError: fake: expected one of"):
            getattr(GapOfAModel(), check)(backend)
        with pytest.raises(ModelError):
            getattr(BackendConformance(), check)(backend)
    GapOfAModel().test_full_launches(backend)


def test_a_gap_of_a_check_is_expected_there() -> None:
    with pytest.raises(pytest.xfail.Exception, match=r"never: it has but one device \(AssertionError: opening on device"):
        GapOfACheck().test_impossible_device_is_refused(AnyDevice())
    GapOfACheck().test_full_launches(AnyDevice())


def test_a_closed_gap_fails() -> None:
    with pytest.raises(AssertionError, match="the gap 'table' is closed, no ModelError was raised: take it out of gaps"):
        GapOfAModel().test_unbatched_input(FakeBackend())
    with pytest.raises(AssertionError, match="the gap 'test_impossible_device_is_refused' is closed"):
        GapOfACheck().test_impossible_device_is_refused(FakeBackend())


def test_a_gap_with_another_error_is_no_gap() -> None:
    backend = FakeBackend(faults={("open", 1): DeviceError("burnt", backend="fake", operation="open")})

    with pytest.raises(DeviceError, match="burnt"):
        GapOfAModel().test_unbatched_input(backend)


def test_a_gap_of_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="Typo.gaps names 'tabel', which is neither a check nor a model"):
        type("Typo", (BackendConformance,), {"gaps": {"tabel": Gap(ModelError, "no tables yet", "ours to do")}})


@pytest.mark.parametrize("check", [name for name in dir(BackendConformance) if name.startswith("test_")])
def test_a_check_takes_a_backend_and_says_what_it_requires(check: str) -> None:
    method = getattr(BackendConformance, check)

    assert list(inspect.signature(method).parameters) == ["self", "backend"]
    assert method.__doc__.splitlines()[0].endswith(".")


def test_a_batch_size_of_one_alone_is_not_enough() -> None:
    class One(BackendConformance):
        batch_sizes = (1,)

    with pytest.raises(AssertionError, match="a batch size of 1 leaves nothing to look at"):
        One().test_short_launches(FakeBackend())


def test_a_thread_that_waits_for_ever_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_DEADLOCK_S", 0.01)
    release = threading.Event()
    try:
        with pytest.raises(AssertionError, match="expected 2 threads at once to end, but they wait for one another"):
            conformance._in_threads(2, lambda _: release.wait(60))
    finally:
        release.set()


# ---------------------------------------------------------------------------------------------------------------- the fake


def open_fake(backend: FakeBackend, model: ReferenceModel = AFFINE, **arguments):
    return backend.open(model.onnx_bytes, **{"device": 0, "batch_sizes": None, "options": {}, **arguments})


def test_the_fake_counts_and_notes_what_happens() -> None:
    backend = FakeBackend(MultipleOf(4))
    one, two = open_fake(backend), open_fake(backend)

    one.execute(AFFINE.random_inputs(np.random.default_rng(0), 3), 4)
    two.execute(AFFINE.random_inputs(np.random.default_rng(0), 8), 8)
    with pytest.raises(InputError, match="expected 1 to 4 rows in every input, got: 'x' has 5"):
        one.execute(AFFINE.random_inputs(np.random.default_rng(0), 5), 4)
    one.close()
    one.close()

    assert backend.calls == {"open": 2, "execute": 2, "close": 1}
    assert backend.launches == [Launch(4, 3), Launch(8, 8)]
    assert (backend.alive, backend.busiest) == (1, 1)


def test_the_fake_fails_on_demand_and_goes_on() -> None:
    burnt = DeviceError("burnt", backend="fake", operation="any", status=7)
    backend = FakeBackend(faults={("open", 1): burnt, ("execute", 2): burnt})
    with pytest.raises(DeviceError, match="burnt"):
        open_fake(backend)
    assert backend.alive == 0
    session = open_fake(backend)
    inputs = AFFINE.random_inputs(np.random.default_rng(0), 4)

    session.execute(inputs, 4)
    with pytest.raises(DeviceError, match="burnt"):
        session.execute(inputs, 4)
    session.execute(inputs, 4)
    backend.faults["close", 1] = burnt
    with pytest.raises(DeviceError, match="burnt"):
        session.close()

    assert backend.alive == 0
    session.close()
    with pytest.raises(ClosedError, match=r"fake: execute\(\) after close\(\)"):
        session.execute(inputs, 4)


def test_the_fake_writes_where_it_is_asked_to() -> None:
    session = open_fake(FakeBackend(), SEVERAL)
    inputs = SEVERAL.random_inputs(np.random.default_rng(0), 4)
    out = {"mixed": np.empty((4, 4), np.float32)}

    results = session.execute(inputs, 4, out)

    assert results["mixed"] is out["mixed"]
    np.testing.assert_array_equal(out["mixed"], SEVERAL.reference(inputs)["mixed"])


def test_the_fake_refuses_what_it_cannot_be_compiled_for() -> None:
    for batching, sizes in ((AnyBatch(), (1, 4)), (MultipleOf(4), (2, 4))):
        with pytest.raises(InputError, match=rf"fake: it runs {batching}, so it cannot be compiled for"):
            open_fake(FakeBackend(batching), batch_sizes=sizes)
    assert open_fake(FakeBackend(MultipleOf(4)), batch_sizes=(2,)).batching == MultipleOf(2)
    assert open_fake(FakeBackend(Gears((1,), pads=True)), batch_sizes=(2, 3)).batching == Gears((2, 3), pads=True)


def test_the_fake_knows_the_models_it_was_given() -> None:
    with pytest.raises(ModelError, match=r"fake: expected one of the models \['affine'\], got 'table'"):
        open_fake(FakeBackend(models=[AFFINE]), TABLE)
