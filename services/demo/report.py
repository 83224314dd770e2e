"""The report of a run: every figure, from what the product app saw and what the stores hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest import Interval, Manifest
from services.demo.accounts import Accounts, Run
from services.demo.metrics import (
    NO_VERSION,
    Answer,
    LoopTimes,
    first_answers,
    histogram,
    loop_times,
    percentile,
    rolling,
    share,
    swaps,
    thin,
    window_of,
)
from services.demo.tally import Final, Tally

_POINTS = 400


@dataclass(frozen=True)
class Played:
    """What was played, and what the last version made of the test messages.

    Attributes:
        test_flags: Whether each test message was answered rightly; empty when there was no test file.
        test_versions: The versions that answered them.
        probes: Answers to questions without feedback, asked while the last feedback was being learned.
        drained: Whether everything was stored and learned before the time allowed for it was over.
        started_with: The champion before the run; None when the loop started with nothing.
        rss_bytes: Memory by service at the end of the run.
    """

    data: str
    rate: float
    seed: int
    n_users: int
    frozen_place: int
    frozen_fault: str
    test_flags: Sequence[bool]
    test_versions: Sequence[str]
    probes: Sequence[Answer]
    drained: bool
    drain_s: float
    stream_s: float
    started_with: str | None
    rss_bytes: Mapping[str, int]


def build(tally: Tally, played: Played, accounts: Accounts) -> dict[str, Any]:
    """Put the figures together, ready for JSON; the keys are described in ``docs/demo.md``."""
    window = window_of(tally.total)
    flags = dict.fromkeys(range(len(tally.answers) + tally.unanswered), False)
    flags |= {answer.index: answer.correct for answer in tally.answers}
    order = [flags[place] for place in sorted(flags)]
    times = loop_times([*tally.answers, *played.probes], tally.accepted_s, accounts.seqs,
                       {m.version: m.examples for m in accounts.manifests}, accounts.held_out)
    static = [tally.static_flags[place] for place in sorted(tally.static_flags)]
    same = [flags[place] for place in tally.static_flags]
    return {
        "started_with": played.started_with,
        "data": {"name": played.data, "messages": tally.total, "users": played.n_users, "seed": played.seed},
        "prequential_accuracy": {"overall": share(order), "last_2000": share(order[-2000:]),
                                 "first_2000": share(order[:2000]), "last_window": share(order[-window:])},
        "static_accuracy": None if played.frozen_fault else share(static),
        "static": {
            "version": tally.static_version, "frozen_after": played.frozen_place, "messages": len(static),
            "prequential_on_the_same": share(same), "fault": played.frozen_fault,
            "never_learned": 0.0 if played.started_with is None else None,
        },
        "test_accuracy": share(list(played.test_flags)),
        "test": {"messages": len(played.test_flags), "versions": sorted(set(played.test_versions))},
        "loop_time_s": {"p50": percentile(times.values_s, 0.5), "p95": percentile(times.values_s, 0.95)},
        "loop_time": _loop_time(times),
        "versions": len(accounts.manifests),
        "generations": len({m.generation for m in accounts.manifests}),
        "swaps": swaps(tally.answers),
        "failed_requests": tally.failures.total(),
        "failures": dict(tally.failures),
        "unanswered": tally.unanswered,
        "events": {"accepted": len(tally.accepted_s), "stored": accounts.stored, "effects": accounts.effects},
        "feedback_rows": accounts.feedback,
        "drain": {"complete": played.drained, "seconds": round(played.drain_s, 2)},
        "rate": {"asked": played.rate, "achieved": tally.total / played.stream_s if played.stream_s else None,
                 "slip_p99_s": percentile(tally.slips_s, 0.99), "slip_max_s": max(tally.slips_s, default=None)},
        "predict_s": {"p50": percentile(tally.predict_s, 0.5), "p95": percentile(tally.predict_s, 0.95),
                      "p99": percentile(tally.predict_s, 0.99), "max": max(tally.predict_s, default=None)},
        "rss_bytes": dict(played.rss_bytes),
        "curves": {
            "window": window,
            "live": thin(rolling(flags, window), _POINTS),
            "static": thin(rolling(tally.static_flags, window), _POINTS),
        },
        "version_list": _versions(tally, accounts.manifests),
        "decisions": [_decision(run) for run in accounts.runs],
    }


def lately(report: Mapping[str, Any]) -> tuple[float | None, int]:
    """The accuracy at the end of the stream, and over how many messages: 2,000, or the window of a shorter stream."""
    n_messages, accuracy = report["data"]["messages"], report["prequential_accuracy"]
    if n_messages > 2000:
        return accuracy["last_2000"], 2000
    return accuracy["last_window"], min(report["curves"]["window"], n_messages)


def final(report: Mapping[str, Any]) -> Final:
    """The figures of the report that the live page ends with."""
    recent, window = lately(report)
    return Final(
        rate=report["rate"]["achieved"] or 0.0, window=window, recent=recent,
        overall=report["prequential_accuracy"]["overall"], static=report["static_accuracy"],
        versions=report["versions"], loop_p50_s=report["loop_time_s"]["p50"], loop_p95_s=report["loop_time_s"]["p95"])


def too_slow(report: Mapping[str, Any]) -> str:
    """What to say when the questions fell behind the rate that was asked for; empty when they did not.

    Falling behind is more than 5 % and more than a second: of a very short stream, the last feedback alone is 5 %.
    """
    rate = report["rate"]
    if (rate["achieved"] or rate["asked"]) >= 0.95 * rate["asked"] or (rate["slip_max_s"] or 0.0) < 1.0:
        return ""
    return f"this machine was too slow for {rate['asked']:g}/s; try --rate {0.9 * rate['achieved']:.2g}"


def verdict(report: Mapping[str, Any]) -> list[str]:
    """What is not as promised, in sentences; empty when all is well."""
    events = report["events"]
    wrong = []
    if report["failed_requests"]:
        wrong.append(f"{report['failed_requests']} requests were not answered with success: {report['failures']}")
    if not events["accepted"] == events["stored"] == events["effects"]:
        wrong.append(f"events accepted {events['accepted']}, stored {events['stored']}, effects {events['effects']} "
                     "are not equal")
    if not report["drain"]["complete"]:
        wrong.append("not everything was stored and learned in the time allowed after the stream")
    if report["static"]["fault"]:
        wrong.append(f"the never-updated version could not be asked: {report['static']['fault']}")
    return wrong


def _loop_time(times: LoopTimes) -> dict[str, Any]:
    top = percentile(times.values_s, 0.995) or 1.0
    width = next(w for w in (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, top) if top <= 40 * w)
    edges = [round(width * place, 3) for place in range(int(top / width) + 2)]
    return {
        "measured": len(times.values_s), "held_out": times.n_held_out, "unlearned": times.n_unlearned,
        "unserved": times.n_unserved,
        "mean_s": sum(times.values_s) / len(times.values_s) if times.values_s else None,
        "p99_s": percentile(times.values_s, 0.99), "max_s": max(times.values_s, default=None),
        "histogram": {"edges_s": edges, "counts": histogram(times.values_s, edges)},
    }


def _versions(tally: Tally, manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    first = first_answers(tally.answers)
    counts: dict[str, int] = {}
    for answer in tally.answers:
        counts[answer.version] = counts.get(answer.version, 0) + 1
    listed = [{"version": m.version, "method": m.method, "generation": m.generation, "n_examples": m.n_examples,
               "labels": len(m.labels), "first_answer_s": first.get(m.version),
               "first_place": tally.first_place.get(m.version), "answers": counts.get(m.version, 0)}
              for m in manifests]
    if NO_VERSION in counts:
        listed.insert(0, {"version": NO_VERSION, "method": "none", "generation": 0, "n_examples": 0, "labels": 0,
                          "first_answer_s": first[NO_VERSION], "first_place": tally.first_place[NO_VERSION],
                          "answers": counts[NO_VERSION]})
    return listed


def _decision(run: Run) -> dict[str, Any]:
    gate = run.gate
    return {
        "version": run.version, "method": run.method, "examples": run.last_seq, "verdict": gate.verdict,
        "rule": gate.rule, "champion": _interval(gate.champion), "candidate": _interval(gate.candidate),
        "difference": _interval(gate.difference), "reason": gate.reason,
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
