"""What holds for all tests of the simulator."""

import threading

import pytest


@pytest.fixture(autouse=True)
def no_strangers(monkeypatch):
    """Keep threads that other tests of this process left for good, such as the load generator's, from the simulator.

    It takes every thread of the program for one that may call it, as it should, and so would these tests' times and deadlocks
    depend on what ran before.
    """
    strangers = set(threading.enumerate()) - {threading.main_thread(), threading.current_thread()}
    everyone = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [thread for thread in everyone() if thread not in strangers])
