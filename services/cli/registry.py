"""``ratchet versions|show|promote|rollback|pin|unpin`` and ``ratchet registry restore``: what serves, and why."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.grammar import add_data_dir, add_json, command

if TYPE_CHECKING:
    from services.cli.grammar import Commands
    from shared.registry import Aliases, Registry

WHERE = """\
Finds the registry through the running stack of --data-dir; RATCHET_REDIS_URL and RATCHET_ARTIFACTS_DIR name
another one."""

# As many entries as the log in Redis keeps, about; older ones are in the artifact directory's journal.
_HISTORY = 10_000

_MAX_REASON_CHARS = 1000


def add(commands: "Commands") -> None:
    """Declare the commands."""
    versions = command(commands, "versions", _versions, about="list a loop's versions, newest first", more=WHERE,
                       examples="  ratchet versions support-intents\n  ratchet versions support-intents --json")
    _loop(versions)
    versions.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: %(default)s)")
    add_json(versions)

    show = command(commands, "show", _show, about="show what a version is, what it learned from, and why it may serve",
                   more=WHERE, examples="  ratchet show support-intents v12\n  ratchet show support-intents champion")
    _loop(show)
    show.add_argument("version", metavar="VERSION", help="v12, or an alias: champion, previous, canary, shadow, pinned")
    add_json(show)

    promote = _change(commands, "promote", "make a version the champion",
                      "  ratchet promote support-intents v12 --reason \"checked by hand\"")
    promote.add_argument("version", metavar="VERSION", help="the version, for example v12")
    promote.add_argument("--force", action="store_true", help="promote though the loop is pinned; the pin moves along")
    _change(commands, "rollback", "go back to the champion before this one, and pin it",
            "  ratchet rollback support-intents --reason \"answers got worse since noon\"",
            "The version it goes back to stays champion until `ratchet unpin`.")
    pin = _change(commands, "pin", "hold a version as champion until it is unpinned",
                  "  ratchet pin support-intents --reason \"freeze for the audit\"\n"
                  "  ratchet pin support-intents v12 --reason \"freeze for the audit\"")
    pin.add_argument("version", metavar="VERSION", nargs="?", help="the version (default: the champion)")
    _change(commands, "unpin", "let the champion move again",
            "  ratchet unpin support-intents --reason \"the audit is over\"")

    group = commands.add_parser("registry", help="restore an emptied registry", description="Work with the registry.")
    actions = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    restore = command(actions, "restore", _restore,
                      about="bring versions, aliases and log back into an emptied Redis",
                      more="Reads the durable artifact directory; what Redis already has is left as it is.\n" + WHERE,
                      examples="  ratchet registry restore\n  ratchet registry restore --loop support-intents")
    restore.add_argument("--loop", metavar="LOOP", help="only this loop (default: all)")
    add_data_dir(restore)


def _loop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("loop", metavar="LOOP", help="the loop's name")
    add_data_dir(parser)


def _change(commands: "Commands", name: str, about: str, examples: str, more: str = "") -> argparse.ArgumentParser:
    parser = command(commands, name, _apply, about=about, examples=examples, more=f"{more}\n{WHERE}".strip())
    _loop(parser)
    parser.add_argument("--reason", required=True, type=_reason, metavar="TEXT",
                        help="why; kept for ever in the loop's log")
    parser.set_defaults(change=name)
    return parser


def _reason(text: str) -> str:
    """A reason that says something, on one line: the log shows it to others."""
    reason = text.strip()
    if not reason or not reason.isprintable() or len(reason) > _MAX_REASON_CHARS:
        raise argparse.ArgumentTypeError(f"say why in a line of 1 to {_MAX_REASON_CHARS} characters")
    return reason


@contextmanager
def opened(data_dir: Path | None) -> Iterator["Registry"]:
    """Connect to the registry of the running stack, or to the one that the environment names.

    Raises:
        Permanent: There is neither.
    """
    from services.stack.operating import registry_address
    from shared.registry import Registry

    redis_url, artifacts_dir = registry_address(data_dir, os.environ)
    registry = Registry.connect(redis_url, artifacts_dir)
    try:
        yield registry
    finally:
        registry.close()


def _check_loop(registry: "Registry", loop: str, data_dir: Path | None) -> None:
    """Return if the loop is in the registry or declared.

    Raises:
        Invalid: It is neither: mistyped, most likely.
    """
    from schemas.errors import Invalid
    from schemas.loops import InvalidLoop
    from shared import loops

    if registry.knows(loop):
        return
    folder = _loops_dir(data_dir)
    try:
        declared = loops.load(folder)
    except InvalidLoop:
        declared = {}
    if loop not in declared:
        raise Invalid(f"there is no loop {loop}: the registry has no version of it, and no file in {folder} declares "
                      "it", code="unknown_loop")


def _loops_dir(data_dir: Path | None) -> Path:
    from services.stack import state
    from services.stack.operating import resolve_data_dir

    known = state.read(resolve_data_dir(data_dir, os.environ))
    running = known.environ.get("RATCHET_LOOPS_DIR") if known and known.phase != "stopped" else None
    return Path(os.environ.get("RATCHET_LOOPS_DIR") or running or "examples/loops")


def _versions(arguments: argparse.Namespace) -> None:
    from services.cli import show

    with opened(arguments.data_dir) as registry:
        _check_loop(registry, arguments.loop, arguments.data_dir)
        aliases = registry.aliases(arguments.loop)
        manifests = registry.versions(arguments.loop, limit=arguments.limit)
    if arguments.json:
        print(show.versions_json(manifests, aliases))
    else:
        show.versions_table(manifests, aliases)


def _show(arguments: argparse.Namespace) -> None:
    from schemas.errors import Invalid
    from services.cli import show

    with opened(arguments.data_dir) as registry:
        _check_loop(registry, arguments.loop, arguments.data_dir)
        aliases = registry.aliases(arguments.loop)
        version: str | None = arguments.version
        if version in ("champion", "previous", "canary", "shadow", "pinned"):
            version = getattr(aliases, arguments.version)
            if version is None:
                raise Invalid(f"the loop {arguments.loop} has no {arguments.version} version")
        manifest = registry.manifest(arguments.loop, version or "")
        newest = registry.newest(arguments.loop, limit=_HISTORY)
        history = [entry for entry in newest if entry.version == manifest.version]
    if arguments.json:
        print(show.version_json(manifest, aliases, history))
    else:
        show.version_page(manifest, aliases, history)


def _apply(arguments: argparse.Namespace) -> None:
    loop, reason, actor = arguments.loop, arguments.reason, _actor()
    with opened(arguments.data_dir) as registry:
        _check_loop(registry, loop, arguments.data_dir)
        before = registry.aliases(loop)
        after: Aliases
        if arguments.change == "promote":
            after = _promote(registry, arguments, actor)
        elif arguments.change == "rollback":
            after = registry.rollback(loop, actor=actor, reason=reason)
        elif arguments.change == "pin":
            after = registry.pin(loop, arguments.version, actor=actor, reason=reason)
        else:
            after = registry.unpin(loop, actor=actor, reason=reason)
    print(f"{loop}: {told(arguments.change, before, after)}")


def _promote(registry: "Registry", arguments: argparse.Namespace, actor: str) -> "Aliases":
    from shared.registry import Conflict

    try:
        return registry.promote(arguments.loop, arguments.version, actor=actor, reason=arguments.reason,
                                force=arguments.force)
    except Conflict as exc:
        pinned = registry.aliases(arguments.loop).pinned
        if arguments.force or not pinned:
            raise
        raise Conflict(f"loop {arguments.loop} is pinned to {pinned}: `ratchet unpin` it first, or promote with "
                       "--force, which moves the pin along") from exc


def told(change: str, before: "Aliases", after: "Aliases") -> str:
    """Return what a change did to a loop, in words."""
    champion = after.champion or "none"
    match change:
        case "unpin":
            stays = f"champion stays {champion}"
            return f"unpinned; {stays}" if before.pinned else f"was not pinned; {stays}"
        case "rollback":
            return (f"rolled back from {before.champion or 'none'} to {champion} and pinned there; "
                    "`ratchet unpin` lets the loop go on")
        case "pin":
            was = "" if before.champion == after.champion else f"; champion was {before.champion or 'none'}"
            return f"pinned {after.pinned}{was}"
    moved = f"{champion} is the champion already" if before.champion == after.champion else (
        f"promoted {champion}; champion was {before.champion or 'none'}")
    return moved + (f"; pinned {after.pinned}" if after.pinned else "")


def _restore(arguments: argparse.Namespace) -> int:
    n_damaged = 0
    with opened(arguments.data_dir) as registry:
        for found in registry.restore(arguments.loop):
            print(f"{found.loop}: {found.n_versions} versions, champion {found.champion or 'none'}, "
                  f"epoch {found.epoch}; wrote {found.n_blobs} tensors and {found.n_entries} log entries")
            for path, why in found.damaged.items():
                print(f"{found.loop}: not usable: {path}: {why}", file=sys.stderr)
            n_damaged += len(found.damaged)
    return 1 if n_damaged else 0


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name
        return f"cli:{os.geteuid()}"
