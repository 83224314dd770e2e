"""The report as one HTML page with plots, nothing from outside, light and dark."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from services.demo.charts import Line, accuracy, bars
from services.demo.live import marks
from services.demo.report import lately, too_slow

_MANY = 400  # decisions beyond this are left out of the page; the JSON has them all


def render(report: Mapping[str, Any], wrong: Sequence[str]) -> str:
    """Return the page.

    Args:
        report: As ``report.build`` makes it.
        wrong: What is not as promised, as ``report.verdict`` says it.
    """
    style = (resources.files("services.demo") / "page.css").read_text(encoding="utf-8")
    data = report["data"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ratchet: a run on {escape(data["name"])}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>What {data["messages"]:,} messages taught</h1>
<p>{escape(data["name"])}, {data["users"]:,} simulated users, {rate(report)}</p></header>
{_faults(wrong)}
{_too_slow(report)}
<section class="tiles" aria-label="figures">{_tiles(report)}</section>
{_accuracy(report)}
{_loop_time(report)}
{_accounts(report)}
{_decisions(report["decisions"])}
</main>
</body>
</html>
"""


def percent(value: float | None) -> str:
    """A share as text; a dash for none."""
    return "–" if value is None else f"{value:.1%}"


def seconds(value: float | None) -> str:
    """Seconds as text; a dash for none."""
    return "–" if value is None else f"{value:.2f} s"


def rate(report: Mapping[str, Any]) -> str:
    """The rate that was reached, as text."""
    return f"{report['rate']['achieved'] or 0:.3g} of {report['rate']['asked']:g} messages asked a second"


def _too_slow(report: Mapping[str, Any]) -> str:
    said = too_slow(report)
    return f'<section class="card"><p>{escape(said)}</p></section>' if said else ""


def _faults(wrong: Sequence[str]) -> str:
    if not wrong:
        return ""
    rows = "".join(f"<p>{escape(sentence)}</p>" for sentence in wrong)
    return f'<section class="card rejected" role="alert"><h2>Not as promised</h2>{rows}</section>'


def _tiles(report: Mapping[str, Any]) -> str:
    accuracy_ = report["prequential_accuracy"]
    recent, n_recent = lately(report)
    began = "from no labels on" if report["started_with"] is None else f"starting with {report['started_with']}"
    tiles = [
        ("main", percent(recent), f"right, of the last {n_recent:,}"),
        ("", percent(accuracy_["overall"]), f"right, of all, {escape(began)}"),
        ("", percent(report["static_accuracy"]), "right, had it stopped learning"),
        ("", percent(report["test_accuracy"]), "right, on unseen test messages"),
        ("", seconds(report["loop_time_s"]["p50"]), f"loop time, p95 {seconds(report['loop_time_s']['p95'])}"),
        ("", f"{report['swaps']:,}", f"swaps, {report['versions']:,} versions"),
        ("bad" if report["failed_requests"] else "", f"{report['failed_requests']:,}", "failed requests"),
    ]
    return "".join(f'<div class="tile {css}"><b>{value}</b><span>{name}</span></div>' for css, value, name in tiles)


def _accuracy(report: Mapping[str, Any]) -> str:
    static, curves = report["static"], report["curves"]
    first = {v["version"]: v["first_place"] for v in report["version_list"] if v["first_place"] is not None}
    generations = {v["version"]: v["generation"] for v in report["version_list"]}
    picture = accuracy([Line("never updated after the first tenth", "frozen", curves["static"]),
                        Line(f"last {curves['window']} messages", "live", curves["live"])],
                       marks(first, generations), report["data"]["messages"])
    note = (f"Each message was answered first and learned from afterwards. The other line is {static['version']}, the "
            f"version that answered message {static['frozen_after'] + 1:,}: asked about the "
            f"{static['messages']:,} messages from there on, it was right on {percent(report['static_accuracy'])}; the "
            f"learning model on {percent(static['prequential_on_the_same'])} of the same messages. ")
    if static["never_learned"] is not None:
        note += "A model that never learned at all had no label to answer with: 0.0%. "
    note += "Ticks below are versions taking over."
    return f"""<section class="card"><h2>Accuracy over the last {curves["window"]} messages</h2>
<p class="note">{escape(note)}</p>
<div class="legend"><span><i></i>learning</span><span><i class="frozen"></i>never updated</span></div>
{picture}</section>"""


def _loop_time(report: Mapping[str, Any]) -> str:
    times = report["loop_time"]
    if not times["measured"]:
        return ""
    counts, edges = times["histogram"]["counts"], times["histogram"]["edges_s"]
    figures = report["loop_time_s"]
    picture = bars(counts, edges, "Loop times", [("p50", figures["p50"]), ("p95", figures["p95"])])
    note = (f"From the collector's success on a feedback to the first answer by a version that learned it: "
            f"{times['measured']:,} feedbacks. {times['held_out']:,} more are of users held out, who are only measured "
            "on and never learned from; they have no loop time.")
    if times["unlearned"] or times["unserved"]:
        note += (f" At the end {times['unlearned']:,} were not learned yet, and {times['unserved']:,} by a version "
                 "that had answered nothing.")
    return f"""<section class="card"><h2>Loop time</h2><p class="note">{escape(note)}</p>{picture}</section>"""


def _accounts(report: Mapping[str, Any]) -> str:
    events, predict = report["events"], report["predict_s"]
    pairs = [
        ("events accepted, stored, effects",
         f"{events['accepted']:,} = {events['stored']:,} = {events['effects']:,}"
         if events["accepted"] == events["stored"] == events["effects"]
         else f"{events['accepted']:,}, {events['stored']:,}, {events['effects']:,}"),
        ("predict", f"p50 {_ms(predict['p50'])}, p95 {_ms(predict['p95'])}, p99 {_ms(predict['p99'])}, "
                    f"longest {_ms(predict['max'])}"),
        ("rate achieved", rate(report)),
        ("stored and learned after", f"{report['drain']['seconds']:.1f} s from the last message"),
        ("memory", ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in report["rss_bytes"].items()) or "–"),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<section class="card"><h2>Accounts</h2><dl>{rows}</dl></section>'


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1000:.0f} ms"


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    if not decisions:
        return ""
    rows = "".join(
        f'<tr><td>{escape(d["version"]) or "–"}</td><td>{escape(d["method"])}</td>'
        f'<td class="number">{d["examples"]:,}</td><td class="{d["verdict"]}">{d["verdict"]}</td>'
        f'<td>{escape(d["rule"])}</td>'
        f'<td class="number">{_value(d["champion"])}</td><td class="number">{_value(d["candidate"])}</td>'
        f'<td class="number">{_difference(d["difference"])}</td><td class="reason">{escape(d["reason"])}</td></tr>'
        for d in decisions[:_MANY])
    more = f" The first {_MANY:,} are shown; the JSON has all." if len(decisions) > _MANY else ""
    return f"""<section class="card"><h2>{len(decisions):,} decisions of the gate</h2>
<p class="note">Champion and candidate on the same examples, which neither was trained on.{more}</p>
<div class="scroll" tabindex="0" role="region" aria-label="decisions"><table><thead><tr><th>version</th><th>method</th>
<th class="number">examples</th><th>verdict</th><th>rule</th><th class="number">champion</th>
<th class="number">candidate</th><th class="number">difference</th><th>reason</th></tr></thead>
<tbody>{rows}</tbody></table></div></section>"""


def _value(interval: Mapping[str, float] | None) -> str:
    return "–" if interval is None else percent(interval["value"])


def _difference(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "–"
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"
