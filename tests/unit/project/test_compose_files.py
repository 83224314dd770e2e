"""compose/: what can be known about it without an engine."""

import json
import re
from pathlib import Path

import yaml

COMPOSE = Path(__file__).resolve().parents[3] / "compose"
FILE = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
DASHBOARD = json.loads((COMPOSE / "grafana" / "dashboards" / "ratchet.json").read_text())
CODE = "\n".join(file.read_text() for folder in ("services", "shared")
                 for file in (COMPOSE.parent / folder).rglob("*.py"))


def test_ports_are_published_on_this_machine_only() -> None:
    published = [port for service in FILE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_long_running_service_restarts_and_is_bounded_in_its_logs() -> None:
    for name, service in FILE["services"].items():
        assert service["restart"] == ("no" if name == "prepare" else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"], name


def test_no_secret_has_a_default_and_the_example_leaves_each_one_empty() -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    example = dict(line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines()
                   if "=" in line and not line.startswith("#"))
    for name in sorted(set(re.findall(r"\$\{([A-Z_]*(?:PASSWORD|KEYS?))\b", text))):
        assert not re.findall(rf"\$\{{{name}:-[^}}]", text), f"{name} has a default"
        assert example.get(name) == "", f"{name} is not in .env.example, or has a value there"


def test_the_file_may_be_read_by_any_engine_without_a_frontend_image() -> None:
    assert "# syntax" not in (COMPOSE / "Dockerfile").read_text()


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in FILE["services"].items():
        if "build" not in service:
            assert re.fullmatch(r"[a-z/-]+:v?\d[\w.-]*", service["image"]), name


def test_the_dashboard_asks_only_for_metrics_that_some_service_declares() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 15
    for expression in expressions:
        for metric in re.findall(r"\bratchet_[a-z_]+", expression):
            declared = re.sub(r"_bucket$", "", metric)
            # The processor adds its prefix and prometheus_client the "_total" of its counters.
            stem = declared.removeprefix("ratchet_processor_").removesuffix("_total")
            named = f'"{declared}"' in CODE or (declared != stem and re.search(rf'"(ratchet_processor_)?{stem}"', CODE))
            assert named, metric
