"""One cache of compiled models for a whole test run, and never the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
