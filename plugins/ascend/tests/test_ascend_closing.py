"""The report thread: it ends without a word, however close() and its own waiting fall."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import acl_sim
import ascend_models
from acl_sim import testing
from anybatch_ascend import AscendBackend

THREAD_NOT_SUBSCRIBED = 107012


def test_waiting_for_reports_while_streams_are_unsubscribed_is_no_failure(caplog):
    """The thread asks for reports once more between the last unsubscription and its end, and is told that it is a stranger."""
    asked_too_late = threading.Event()
    left = 2

    def process_report(timeout_ms):
        code = acl_sim.rt.process_report(timeout_ms)
        if code == THREAD_NOT_SUBSCRIBED:
            asked_too_late.set()
        return code

    def unsubscribe_report(*arguments):
        nonlocal left
        code = acl_sim.rt.unsubscribe_report(*arguments)
        left -= 1
        if not left:
            assert asked_too_late.wait(60)
        return code

    rt = SimpleNamespace(**vars(acl_sim.rt) | {"process_report": process_report, "unsubscribe_report": unsubscribe_report})
    acl = SimpleNamespace(**vars(acl_sim) | {"rt": rt})
    testing.reset()
    om = ascend_models.compiled(ascend_models.AFFINE, (1, 4, 8))

    ascend_models.open_model(om, backend=AscendBackend(acl=lambda: acl), slots=2).close()

    assert not left
    assert caplog.records == []
    testing.assert_clean()
