"""The conformance kit, on the simulator: strict, without a leak or a violation, waiting for streams and for callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from acl_sim import testing
from anybatch import Backend, ModelError
from anybatch.testing import BackendConformance, Gap
from anybatch.testing.models import ROWS_TIMES_3
from anybatch_ascend_sim import backend as ascend_sim


class _OnTheSimulator(BackendConformance):
    options: ClassVar[Mapping[str, object]]
    gaps: ClassVar[Mapping[str, Gap]] = {
        "scalar": Gap(ModelError, "atc takes no scalar input with gears (E10012)", "the vendor's to do"),
    }

    @pytest.fixture(autouse=True)
    def clean(self):
        testing.reset()
        yield
        testing.assert_clean()

    @pytest.fixture
    def backend(self) -> Backend:
        return ascend_sim()

    def open_options(self, model):
        return {**self.compile_options(model), **self.options}

    def compile_options(self, model):
        told = {"rows_per_row": model.rows_per_row} if model is ROWS_TIMES_3 else {}
        # The kit's references are exact; the vendor's default mode rounds to half precision.
        return {"precision_mode": "must_keep_origin_dtype", **told}

    def resources(self):
        account = testing.ledger()
        return {**super().resources(), "acl handles and memory": len(account.leaks)}


class TestStreams(_OnTheSimulator):
    options: ClassVar[Mapping[str, object]] = {"callback_every": 0, "slots": 3}


class TestCallbacks(_OnTheSimulator):
    options: ClassVar[Mapping[str, object]] = {"callback_every": 2, "slots": 4}
