import pytest

from acl_sim import testing


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset()
    testing.reset()
