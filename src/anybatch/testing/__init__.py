"""What authors of backends test with; see `BackendConformance`. Needs ``pip install 'anybatch[testing]'``."""

try:
    import hypothesis
    import pytest
except ImportError as error:
    raise ImportError(f"anybatch.testing needs pytest and hypothesis ({error}): pip install 'anybatch[testing]'") from error

from anybatch.testing.conformance import BackendConformance, Gap
from anybatch.testing.fake import FakeBackend, FakeSession
from anybatch.testing.models import MODELS, PROBES, ReferenceModel
from anybatch.testing.strategies import (
    batch_sizes,
    batchings,
    cost_tables,
    gears_of,
    launches_that_hurt,
    request_sizes,
    short_launches,
    sizes_that_hurt,
)

__all__ = [
    "MODELS",
    "PROBES",
    "BackendConformance",
    "FakeBackend",
    "FakeSession",
    "Gap",
    "ReferenceModel",
    "batch_sizes",
    "batchings",
    "cost_tables",
    "gears_of",
    "launches_that_hurt",
    "request_sizes",
    "short_launches",
    "sizes_that_hurt",
]

del hypothesis, pytest
