"""The conformance kit, on the simulator: strict, without a leak or a violation, whoever pads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from anybatch import Backend, ModelError
from anybatch.testing import BackendConformance, Gap
from anybatch.testing.models import ROWS_TIMES_3, SEVERAL
from anybatch_ipu.compile import COMPILE_OPTIONS
from poprt_sim import testing
from poprt_sim.anybatch_backend import backend as ipu_sim


class _OnTheSimulator(BackendConformance):
    batch_sizes = (4,)
    options: ClassVar[Mapping[str, object]]
    gaps: ClassVar[Mapping[str, Gap]] = {
        "bfloat16": Gap(ModelError, "a PopEF has no bfloat16", "the vendor's to do"),
        "int64": Gap(AssertionError, "PopRT's converter makes int64 inputs int32, since IPUs have no int64", "never"),
        "float64": Gap(AssertionError, "the converter makes float64 float32, since IPUs have no float64", "never"),
    }

    @pytest.fixture(autouse=True)
    def clean(self):
        testing.reset()
        yield
        testing.assert_clean()

    @pytest.fixture
    def backend(self) -> Backend:
        return ipu_sim()

    def open_options(self, model):
        told = {"rows_per_row": model.rows_per_row} if model is ROWS_TIMES_3 else {}
        return {**told, **self.options}

    def compile_options(self, model):
        return {name: value for name, value in self.open_options(model).items() if name in COMPILE_OPTIONS}

    def resources(self):
        account = testing.ledger()
        return {**super().resources(), "devices and runners": len(account.leaks)}


class _RuntimePads(_OnTheSimulator):
    """PopRT runs rows of several callers in one batch, which only a model that mixes rows shows; the rest is shown below."""

    gaps: ClassVar[Mapping[str, Gap]] = {
        **_OnTheSimulator.gaps,
        "test_concurrent_launches": Gap(AssertionError, "a model that mixes rows sees those of other callers", "never"),
    }

    def test_concurrent_launches_of_rows_that_do_not_mix(self, backend):
        with self.session(backend, SEVERAL) as session:
            self._check_concurrent_launches(session, SEVERAL)
        account = testing.ledger()
        assert account.merged_runs > 0, "nothing was shared: that is what waiting is for"


class TestRuntimePads(_RuntimePads):
    options: ClassVar[Mapping[str, object]] = {}


class TestRuntimePadsInTwoCalls(_RuntimePads):
    options: ClassVar[Mapping[str, object]] = {"execute_async": True, "in_flight": 5}


class TestOverlappedIO(_RuntimePads):
    options: ClassVar[Mapping[str, object]] = {"compiler_options": {"num_io_tiles": 32, "batches_per_step": 2}}


class TestHostPads(_OnTheSimulator):
    options: ClassVar[Mapping[str, object]] = {"pad_by": "host"}
