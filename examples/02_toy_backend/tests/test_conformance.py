"""What every backend must show, shown by this one."""

from collections.abc import Mapping

import pytest
from anybatch_toy import ToyBackend

from anybatch.testing import BackendConformance, ReferenceModel


class TestToy(BackendConformance):
    """All of it, and no gap."""

    @pytest.fixture
    def backend(self) -> ToyBackend:
        """Return a new backend for each check."""
        return ToyBackend()

    def open_options(self, model: ReferenceModel) -> Mapping[str, object]:
        """Say how many entries one row has, where no reader could know."""
        return {"rows_per_row": model.rows_per_row} if model.name == "rows_times_3" else {}
