"""The state of pipelines as one HTML file: no script, nothing from elsewhere, readable by light and in the dark."""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from stforecast.files import sync
from stforecast.operations.archive import Archive
from stforecast.operations.discretion import printable
from stforecast.operations.status import Status
from stforecast.operations.words import RUN_HEADINGS, STATES, chosen_leads, error_rows, facts, headline, told
from stforecast.time_axis import show_step, show_time

PAGE = "status.html"
# A page is opened often, also by telephone.
_MOST_MAPS, _MOST_MAP_BYTES = 12, 8 * 2**20
_RELOAD_SECONDS = 300


def status_page(statuses: Sequence[Status], maps: Mapping[str, Mapping[str, bytes]]) -> str:
    """A page of some pipelines.

    What others named, as files or in errors, is text in it and nothing else.

    Args:
        statuses: how they stand.
        maps: for each pipeline's name its newest maps, PNG by their names, see `newest_maps`.
    """
    page = Element("html", lang="en")
    head = _add(page, "head")
    _add(head, "meta", charset="utf-8")
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; img-src data:; " + _STYLE_POLICY}
    SubElement(head, "meta", policy)
    SubElement(head, "meta", {"http-equiv": "refresh", "content": str(_RELOAD_SECONDS)})
    _add(head, "link", rel="icon", href="data:,")
    worst = min((status.state for status in statuses), key=list(STATES)[::-1].index)
    names = ", ".join(status.pipeline for status in statuses)
    _add(head, "title", f"{STATES[worst][0]} {names}")
    # Not through `_add`: a style is no text.
    SubElement(head, "style").text = _STYLE
    main = _add(_add(page, "body"), "main")
    for status in statuses:
        _section(main, status, maps.get(status.pipeline, {}))
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def newest_maps(output: Path, status: Status) -> dict[str, bytes]:
    """The maps of a pipeline's newest forecast, PNG by their names; as many as a page can hold."""
    version = None if status.newest is None else Archive(output).version(status.newest)
    found: dict[str, bytes] = {}
    if version is None:
        return found
    size = 0
    for file in sorted((version / "maps").glob("*.png"))[:_MOST_MAPS]:
        # A run may delete the forecast at this moment.
        with suppress(FileNotFoundError):
            size += file.stat().st_size
            if size > _MOST_MAP_BYTES:
                break
            found[file.stem] = file.read_bytes()
    return found


def write_page(file: Path, page: str) -> None:
    """Put a page where it is read, whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        sync(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


_SIGNS = {
    "fresh": "M1,7l4,4l8,-9",
    "degraded": "M7,1l6,6l-6,6l-6,-6z",
    "failing": "M7,2l6,11h-12z",
    "stale": "M2,2h10v10h-10z",
}


def _add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """A new element of a page; nothing in its text or attributes can end it."""
    plain = {name.rstrip("_").replace("_", "-"): printable(value) for name, value in attributes.items()}
    element = SubElement(parent, tag, plain)
    element.text = printable(text)
    return element


def _section(main: Element, status: Status, maps: Mapping[str, bytes]) -> None:
    section = _add(main, "section")
    heading = _add(section, "h1", f"{status.pipeline} ")
    badge = _add(heading, "span", class_=f"badge {status.state}")
    # Not every machine has letters for the signs.
    sign = _add(badge, "svg", viewBox="0 0 14 14", aria_hidden="true", class_="sign")
    _add(sign, "path", d=_SIGNS[status.state])
    sign.tail = f" {STATES[status.state][1]}"
    _add(section, "p", f"{headline(status)[:1].upper()}{headline(status)[1:]}.", class_="lead")
    for fault in status.faults:
        _add(section, "p", f"! {fault}", class_="fault")
    written = f"Written at {status.now:%Y-%m-%d %H:%M} UTC."
    if status.stale_from is not None and not status.is_stale:
        written += f" If it is past {status.stale_from:%Y-%m-%d %H:%M} UTC now, no run has come to its end since."
    _add(section, "p", written, class_="note")
    _table(section, (), facts(status).items())
    if maps:
        _add(section, "h2", "Newest maps")
        row = _add(section, "div", class_="maps")
        init = "" if status.newest is None else f" of {show_time(status.newest)}"
        for name, content in maps.items():
            picture = "data:image/png;base64," + base64.b64encode(content).decode()
            _add(_add(row, "figure"), "img", src=picture, alt=f"Map {name} of the forecast{init}")
    _add(section, "h2", "Last runs")
    rows = ((*told(run)[:-1], "\n".join([told(run)[-1], *run.warnings]).strip()) for run in status.runs)
    _table(section, RUN_HEADINGS, rows, [run.status for run in status.runs])
    for name, errors in status.skill.get("rmse", {}).items():
        units, count = status.skill["units"][name], status.skill["forecasts"]
        _add(section, "h2", f"Root mean square error of {name}")
        span = f"{status.skill['from']} to {status.skill['to']}"
        _add(section, "p", f"{count} forecasts that have come true, {span}; below the references is better.")
        _curve(section, name, units, errors)
        _table(section, ("lead", *(f"{source} [{units}]" for source in errors), "gain"), error_rows(errors))


def _table(
    parent: Element, headings: Sequence[str], rows: Iterable[Iterable[str]], classes: Sequence[str] = ()
) -> None:
    table = _add(_add(parent, "div", class_="wide"), "table")
    if headings:
        row = _add(_add(table, "thead"), "tr")
        for heading in headings:
            _add(row, "th", heading, scope="col")
    body = _add(table, "tbody")
    for number, cells in enumerate(rows):
        row = _add(body, "tr", **({"class_": classes[number]} if classes else {}))
        for place, cell in enumerate(cells):
            lines = cell.split("\n")
            shown = _add(row, "td" if place or headings else "th", lines[0])
            for line in lines[1:]:
                _add(shown, "div", line)


# --- A curve. Drawn here and not by matplotlib, which takes a second for it and knows nothing of light and dark.

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 280, 56, 20, 36, 44
# Paths around a point, told apart without colours.
_MARKERS = (
    "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "m-4,-4h8v8h-8z",
    "m0,-5l5,9h-10z",
    "m0,-5l5,5l-5,5l-5,-5z",
    "m0,5l5,-9h-10z",
    "m-5,-5l10,10m0,-10l-10,10",
)


def _curve(parent: Element, name: str, units: str, errors: Mapping[str, Mapping[int, float]]) -> None:
    """A line of each source's error by lead time, from zero."""
    leads = sorted({lead for by_lead in errors.values() for lead in by_lead})
    spacing, top = _scale(max(max(by_lead.values()) for by_lead in errors.values() if by_lead))

    def place(lead: float, error: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * lead / leads[-1]
        return round(across, 1), round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * error / top, 1)

    label = f"{name}: root mean square error by lead time of {', '.join(errors)}"
    picture = _add(parent, "svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, class_="curve")
    for number in range(round(top / spacing) + 1):
        x, y = place(0, number * spacing)
        _add(picture, "path", d=f"M{x},{y}H{_WIDTH - _RIGHT}", class_="grid")
        _add(picture, "text", f"{number * spacing:g}", x=str(x - 8), y=str(y + 4), class_="end")
    for lead in chosen_leads(leads):
        x, y = place(lead, 0)
        _add(picture, "path", d=f"M{x},{y}v5", class_="tick")
        _add(picture, "text", show_step(np.timedelta64(lead, "s")), x=str(x), y=str(y + 18), class_="middle")
    _add(picture, "text", "lead time", x=str((_LEFT + _WIDTH - _RIGHT) / 2), y=str(_HEIGHT - 6), class_="middle")
    _add(picture, "text", units, x="8", y=str(_TOP - 14))
    across = float(_LEFT)
    for number, (source, by_lead) in enumerate(errors.items()):
        line = _add(picture, "g", class_=f"line{number % len(_MARKERS)}{' own' if source == 'forecast' else ''}")
        points = [place(lead, error) for lead, error in sorted(by_lead.items())]
        _add(line, "path", d="M" + "L".join(f"{x},{y}" for x, y in points), class_="stroke")
        marker = _MARKERS[number % len(_MARKERS)]
        shown = {place(lead, by_lead[lead]) for lead in chosen_leads(sorted(by_lead))}
        for x, y in sorted(shown):
            _add(line, "path", d=f"M{x},{y}{marker}", class_="marker")
        _add(line, "path", d=f"M{across + 8},{_TOP - 18}{marker}", class_="marker")
        _add(picture, "text", source.replace("_", " "), x=str(across + 20), y=str(_TOP - 14))
        across += 40 + 7 * len(source)


def _scale(largest: float) -> tuple[float, float]:
    """The spacing of marks from zero on, and the last of them."""
    if not largest > 0:
        return 1.0, 1.0
    decade = 10.0 ** math.floor(math.log10(largest / 4))
    spacing = next(step * decade for step in (1, 2, 2.5, 5, 10) if largest / (step * decade) <= 5)
    return spacing, spacing * math.ceil(largest / spacing)


_STYLE_POLICY = "style-src 'unsafe-inline'"
# Okabe and Ito's colours (doi:10.1038/nmeth.1618), darker or lighter as the paper wants; signs and words say the same.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --faint: #666; --rule: #d5d5d5;
  --c0: #0072b2; --c1: #c04a00; --c2: #007a5a; --c3: #a3487a; --c4: #8a6100; --c5: #1b1b1b; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e8e8e8; --faint: #a5a5a5; --rule: #3a3d42;
  --c0: #56b4e9; --c1: #ff8a3d; --c2: #2fc79b; --c3: #e69cc6; --c4: #f0b429; --c5: #e8e8e8; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1rem; }
section + section { border-top: 2px solid var(--rule); margin-top: 3rem; }
h1 { font-size: 1.6rem; margin: 1rem 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.badge { display: inline-block; font-size: 1rem; padding: .15rem .6rem; border-radius: .3rem; color: #fff; }
.sign { width: .8rem; height: .8rem; fill: none; stroke: currentColor; stroke-width: 2; }
.fresh.badge { background: #0072b2; }
.degraded.badge, .failing.badge { background: #e69f00; color: #000; }
.stale.badge { background: #b34700; }
.lead { font-size: 1.1rem; margin: .5rem 0; }
.fault { border-left: .3rem solid #d55e00; padding-left: .6rem; overflow-wrap: anywhere; }
.note { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
td:not(:last-child) { white-space: nowrap; }
.failed td:nth-child(2), .killed td:nth-child(2) { color: var(--c1); font-weight: 600; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 20rem; max-width: 40rem; }
img { width: 100%; height: auto; border-radius: .3rem; background: #fff; }
.curve { display: block; width: 100%; max-width: 44rem; height: auto; font-size: 12px; fill: var(--ink); }
.curve .end { text-anchor: end; } .curve .middle { text-anchor: middle; }
.curve .grid { stroke: var(--rule); } .curve .tick { stroke: var(--faint); }
.stroke { fill: none; stroke-width: 1.6; } .own .stroke { stroke-width: 3; } .marker { stroke-width: 1.5; }
.line0 path { stroke: var(--c0); } .line0 .marker { fill: var(--c0); }
.line1 path { stroke: var(--c1); } .line1 .marker { fill: var(--c1); }
.line2 path { stroke: var(--c2); } .line2 .marker { fill: var(--c2); }
.line3 path { stroke: var(--c3); } .line3 .marker { fill: var(--c3); }
.line4 path { stroke: var(--c4); } .line4 .marker { fill: var(--c4); }
.line5 path { stroke: var(--c5); }
"""
