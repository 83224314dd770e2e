"""``ratchet demo``: starts a stack, or takes the one that is named, plays a product app against it, and reports."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from schemas.errors import Invalid, Permanent, RatchetError
from services.demo import page, report, stack
from services.demo.conduct import Plan, conduct
from services.demo.messages import Message, Source, default_source, play_list, read
from services.demo.screen import Screen, as_promised, faults, report_table
from services.demo.settings import Settings
from shared.settings import read as read_settings

_PROJECT = Path(__file__).resolve().parents[2]


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Args:
        args: As ``arguments.add_arguments`` declares them.

    Returns:
        0 when all went as promised, 1 when not, 2 for wrong arguments or settings, 130 when interrupted.
    """
    screen = Screen(Console())
    try:
        settings = read_settings(Settings)
        source = _source(args)
        messages = play_list(read(source.stream, source.text, source.label), seed=args.seed, limit=args.limit)
        test = read(source.test, source.text, source.label) if source.test else []
        _make_room(args.report)
    except (Invalid, Permanent) as exc:
        print(f"ratchet demo: {exc}", file=sys.stderr)
        return 2
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _stack(args, screen) as running:
            if args.loop not in running.champions:
                known = ", ".join(running.champions)
                raise Permanent(f"the running stack has no loop {args.loop!r}; it has {known}: choose one with --loop")
            found = _play(args, screen, running, source, messages, test, settings.port)
    except RatchetError as exc:
        print(f"ratchet demo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.say("interrupted")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    wrong = report.verdict(found)
    screen.console.print(report_table(found))
    screen.console.print(faults(wrong) if wrong else as_promised(), soft_wrap=True)
    slow = report.too_slow(found)
    if slow:
        screen.say(slow)
    screen.say(f"report: {args.report} and {_html(args)}")
    return 1 if wrong else 0


def _play(args: argparse.Namespace, screen: Screen, running: stack.Stack, source: Source, messages: list[Message],
          test: list[Message], port: int) -> dict[str, Any]:
    def announce(address: str) -> None:
        screen.say(f"watch it learn: {address}")
        if args.open:
            webbrowser.open(address)

    def memory() -> dict[str, int]:
        again = stack.find(running.data_dir)
        return dict(again.rss_bytes) if again else {}

    champion = running.champions[args.loop]
    if champion:
        screen.say(f"the loop has learned before: it starts with {champion}, not from nothing")
    plan = Plan(data=source.name, loop=args.loop, messages=messages, test=test, rate=args.rate or source.rate,
                seed=args.seed, live_port=port, announce=announce, end=f"The report is in {_html(args)}.")
    found = asyncio.run(conduct(plan, running, screen, memory))
    args.report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _html(args).write_text(page.render(found, report.verdict(found)), encoding="utf-8")
    return found


@contextmanager
def _stack(args: argparse.Namespace, screen: Screen) -> Iterator[stack.Stack]:
    """The stack that is named by its data folder, or one of our own that is stopped again.

    A stack that runs in the default folder is never played on unless it is named: it would learn the demo's messages.
    """
    fresh = args.data_dir is None
    folder = stack.fresh_folder(time.strftime("%Y%m%d-%H%M%S")) if fresh else args.data_dir.absolute()
    found = None if fresh else stack.find(folder)
    if found is not None:
        screen.say(f"playing on the stack that runs in {found.data_dir}: its loop learns these messages")
        yield found
        return
    screen.say(f"starting a stack in {folder}")
    try:
        yield stack.start(folder, _PROJECT / "examples" / "demo", fresh=fresh, say=screen.say)
    finally:
        if args.keep:
            screen.say(f"the stack stays up; `ratchet down --data-dir {folder}` stops it")
        else:
            screen.say("stopping the stack")
            with _uninterrupted():
                stack.stop(folder, remove=fresh)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C, so that stopping is not left half done."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with suppress(TypeError):  # a handler that was not set from Python cannot be set back
            signal.signal(signal.SIGINT, before)


def _source(args: argparse.Namespace) -> Source:
    """The files to play: what was asked for, else what there is."""
    if args.data is None:
        source = default_source(_PROJECT)
        return source if args.test is None else Source(source.name, source.stream, args.test, source.text,
                                                       source.label, source.rate)
    return Source(args.data.name, args.data, args.test, args.text, args.label, 50.0)


def _make_room(report: Path) -> None:
    """Make sure before the run, and not minutes later, that its report can be written."""
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Permanent(f"the report {report} cannot be written: {exc.strerror}") from exc
    if report.is_dir() or not os.access(report if report.exists() else report.parent, os.W_OK):
        raise Permanent(f"the report {report} cannot be written")


def _html(args: argparse.Namespace) -> Path:
    path: Path = args.report
    return path.with_suffix(".html")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
