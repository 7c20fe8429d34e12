"""What the agent logs about its collectors."""

from __future__ import annotations

from structlog.testing import capture_logs

from agent.sampling.passes import CollectionResult
from agent.tick_log import TickLog
from collectors import Note
from tests.agent.sampling.fakes import make_result


def test_hardware_that_is_gone_is_logged_once() -> None:
    """A device that says that it is not there is one line with its file, and none while it stays so."""
    gone = CollectionResult("hwmon", 0.0, 0.0, 0.0, (), (Note("temp1_input", "No such device or address"),))
    with capture_logs() as lines:
        log = TickLog()
        for result in (make_result("hwmon", 0.0), gone, gone):
            log.log_results([result])

    assert [(line["event"], line["reason"]) for line in lines] == [
        ("this machine does not have it", "temp1_input: No such device or address")
    ]
