"""What a service tells about itself."""

import json

from shared.health import Health


def told(health: Health, path: str) -> tuple[int, object]:
    page = health.page(path)
    assert page is not None
    assert page.content_type == "application/json"
    return page.status, json.loads(page.body)


def test_a_service_is_ready_while_nothing_is_at_fault():
    faults = {"kafka": "does not answer"}
    health = Health(lambda: faults)

    assert told(health, "/health/ready") == (503, {"status": "not ready", "faults": {"kafka": "does not answer"}})
    faults.clear()
    assert told(health, "/health/ready") == (200, {"status": "ready", "faults": {}})


def test_what_is_degraded_is_told_and_leaves_it_ready():
    health = Health(dict, degraded=lambda: {"tickets": "cannot follow"})

    assert told(health, "/health/ready") == (
        200, {"status": "ready", "faults": {}, "degraded": {"tickets": "cannot follow"}})


def test_a_service_that_only_a_restart_can_help_is_not_live():
    assert told(Health(dict), "/health/live") == (200, {"status": "live"})
    assert told(Health(dict, live=lambda: False), "/health/live") == (503, {"status": "dead"})


def test_other_paths_are_none_of_its_pages():
    assert Health(dict).page("/health") is None
