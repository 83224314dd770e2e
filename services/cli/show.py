"""Shows versions to people (tables) and to programs (JSON)."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from schemas.manifest import Interval, Manifest
    from shared.registry import Aliases, LogEntry

NAMES = ("champion", "previous", "canary", "shadow", "pinned")


def versions_json(manifests: "Sequence[Manifest]", aliases: "Aliases") -> str:
    """Return the versions as one JSON object: aliases, epoch, and what each version is in brief."""
    return _text({"aliases": _aliases(aliases), "epoch": aliases.epoch,
                  "versions": [_brief(manifest, aliases) for manifest in manifests]})


def version_json(manifest: "Manifest", aliases: "Aliases", history: "Sequence[LogEntry]") -> str:
    """Return the whole manifest with its aliases and its part of the log."""
    return _text({"manifest": msgspec.to_builtins(manifest), "aliases": _named(manifest, aliases),
                  "log": [msgspec.to_builtins(entry) for entry in history]})


def versions_table(manifests: "Sequence[Manifest]", aliases: "Aliases") -> None:
    """Print the versions as a table."""
    from rich.console import Console
    from rich.table import Table

    if not manifests:
        print("no version yet: the first one is published as soon as there is feedback to learn from")
        return
    # At most 80 columns with one alias each, so that a terminal shows every figure; further aliases wrap.
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("version", "as", "method", "examples", "labels", "accuracy", "gate", "made"):
        table.add_column(heading, justify="right" if heading in ("examples", "labels") else "left",
                         no_wrap=heading != "as")
    for manifest in manifests:
        metric = manifest.metrics.get(f"prequential_{manifest.gate.metric}") or next(iter(manifest.metrics.values()),
                                                                                     None)
        table.add_row(manifest.version, ", ".join(_named(manifest, aliases)), manifest.method, str(manifest.n_examples),
                      str(len(manifest.labels)), _percent(metric), manifest.gate.verdict,
                      _briefly(manifest.created_ms))
    Console(highlight=False).print(table)


def version_page(manifest: "Manifest", aliases: "Aliases", history: "Sequence[LogEntry]") -> None:
    """Print one version: what it is, what it learned from, why it may serve, and what happened to it."""
    ranges = ", ".join(f"{r.first}-{r.last}" if r.last != r.first else str(r.first) for r in manifest.examples[-8:])
    facts = {
        "loop": manifest.loop,
        "serves as": ", ".join(_named(manifest, aliases)) or "nothing",
        "made": f"{_when(manifest.created_ms)} by {manifest.method}, code {manifest.code_version}, "
                f"seed {manifest.seed}",
        "parent": manifest.parent or "none",
        "encoder": f"{manifest.base.id}, generation {manifest.generation}, {manifest.encoder[:12]}",
        "learned from": f"sequence {'... ' if len(manifest.examples) > 8 else ''}{ranges} ({manifest.n_examples} "
                        "learned; held-out and replaced ones are read, not learned)" if ranges else "nothing",
        "labels": f"{len(manifest.labels)}: {', '.join(manifest.labels[:12])}"
                  + (" ..." if len(manifest.labels) > 12 else ""),
        "gate": f"{manifest.gate.verdict} ({manifest.gate.rule}): {manifest.gate.reason}",
        "champion then": _interval(manifest.gate.champion),
        "candidate": _interval(manifest.gate.candidate),
        "difference": _difference(manifest.gate.difference),
        "forgotten": ", ".join(check.label for check in manifest.gate.labels if not check.ok) or "no label",
        "tensors": ", ".join(f"{name} {tuple(ref.shape)}" for name, ref in list(manifest.tensors.items())[:4])
                   + (f" and {len(manifest.tensors) - 4} more" if len(manifest.tensors) > 4 else ""),
    }
    facts |= {name: _interval(value) for name, value in manifest.metrics.items()}
    print(f"{manifest.version}")
    for name, value in facts.items():
        if value:
            print(f"  {name:<22} {value}")
    for entry in history:
        # Published and promoted for the gate's reason, which stands above.
        why = "" if entry.reason in ("", manifest.gate.reason) else f": {entry.reason}"
        print(f"  {_when(entry.time_ms)}    {entry.action} by {entry.actor}{why}")


def _brief(manifest: "Manifest", aliases: "Aliases") -> dict[str, Any]:
    return {
        "version": manifest.version, "aliases": _named(manifest, aliases), "method": manifest.method,
        "generation": manifest.generation, "parent": manifest.parent, "created_ms": manifest.created_ms,
        "n_examples": manifest.n_examples, "n_labels": len(manifest.labels),
        "metrics": msgspec.to_builtins(manifest.metrics), "gate": msgspec.to_builtins(manifest.gate),
    }


def _aliases(aliases: "Aliases") -> dict[str, str | None]:
    return {name: getattr(aliases, name) for name in NAMES}


def _named(manifest: "Manifest", aliases: "Aliases") -> list[str]:
    return [name for name, version in _aliases(aliases).items() if version == manifest.version]


def _interval(value: "Interval | None") -> str:
    return "" if value is None else (f"{value.value:.1%}, between {value.low:.1%} and {value.high:.1%}, "
                                     f"n={value.n}")


def _difference(value: "Interval | None") -> str:
    return "" if value is None else (f"{100 * value.value:+.1f} points, between {100 * value.low:+.1f} and "
                                     f"{100 * value.high:+.1f}, n={value.n}")


def _percent(value: "Interval | None") -> str:
    return "" if value is None else f"{value.value:.1%} n={value.n}"


def _when(created_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created_ms / 1000))


def _briefly(created_ms: int) -> str:
    made = time.localtime(created_ms / 1000)
    return time.strftime("%H:%M:%S" if made[:3] == time.localtime()[:3] else "%m-%d %H:%M", made)


def _text(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
