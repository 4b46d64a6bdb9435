import signal

import pytest

from acl_sim import testing


@pytest.fixture(autouse=True)
def fresh_machine():
    """A machine of its own for each test; and Ctrl-C stays Python's, which `start_thread` takes away as the real one does."""
    handler = signal.getsignal(signal.SIGINT)
    yield testing.reset()
    testing.reset()
    signal.signal(signal.SIGINT, handler)
