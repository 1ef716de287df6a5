"""How the state of a pipeline is said, on a terminal and on its page."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import numpy as np

from stforecast.operations.status import Attempt, Status
from stforecast.time_axis import show_step, show_time

# A sign and words, since colours alone say nothing to some eyes.
STATES = {
    "fresh": ("✓", "up to date"),
    "degraded": ("◆", "up to date, degraded"),
    "failing": ("▲", "up to date, but the last run failed"),
    "stale": ("■", "stale"),
}
_LEADS_SHOWN = 8


def headline(status: Status) -> str:
    """How old the newest forecast is and how old it may be."""
    if status.newest is None or status.age is None:
        return f"no forecast is published; that of {show_time(status.due)} should be"
    made_by = status.choice.get("made_by")
    told = f"the newest forecast is of {show_time(status.newest)}{'' if made_by is None else f', made by {made_by}'}"
    return f"{told}; it is {show_length(status.age)} old, wanted {show_length(status.limit)} at most"


def facts(status: Status) -> dict[str, str]:
    """What is known beside that, each with its name; what there is nothing to say of is left out."""
    choice, recent, model, disk = status.choice, status.recent, status.model, status.disk_bytes
    is_there = status.newest is not None and status.newest >= status.due
    gaps = ", ".join(f"{gap.init} ({gap.kind or 'never tried'})" for gap in status.gaps)
    more = status.gap_count - len(status.gaps)
    known = {
        "due": f"{show_time(status.due)} {status.time_zone or 'UTC'}{'' if is_there else ', not published yet'}",
        "stale from": "" if status.stale_from is None else f"{status.stale_from:%Y-%m-%d %H:%M} UTC",
        "running now": status.active,
        "published": "" if status.oldest is None else f"{status.published}, since {show_time(status.oldest)}",
        "degraded": f"{recent['degraded']} of {recent['forecasts']} of the last {status.days} days" if recent else "",
        "newest degraded": f"made by {choice['made_by']} from {choice['last_frame']}: {choice['reason']}"
        if choice.get("is_degraded")
        else "",
        "missing": f"{status.gap_count}: {f'{more} earlier, ' if more else ''}{gaps}" if status.gap_count else "",
        "back-fill": f"stforecast run … --catch-up {status.catch_up}" if status.catch_up else "",
        "last success": (status.last_success or "")[:16].replace("T", " "),
        "model": model["name"] if model["sha256"] is None else f"{model['name']} ({model['sha256'][:12]})",
        "disk": f"{show_bytes(disk['output'])} of forecasts, {show_bytes(disk['store'])} of store, "
        f"{show_bytes(disk['free'])} free",
    }
    return {name: said for name, said in known.items() if said}


RUN_HEADINGS = ("init", "status", "took", "what it said")


def told(run: Attempt) -> tuple[str, str, str, str]:
    """A row of a table of runs, below `RUN_HEADINGS`, without warnings."""
    tried = f", attempt {run.attempt}" if run.attempt > 1 else ""
    message = f"{run.message} [{run.kind}]" if run.kind else run.message
    return run.init, f"{run.status}{tried}", f"{run.seconds:.1f} s", message


def error_rows(errors: Mapping[str, Mapping[int, float]]) -> Iterator[tuple[str, ...]]:
    """Rows of a table of errors: the lead time, the error of each source, and the gain of the forecast."""
    for lead in chosen_leads(sorted(errors["forecast"])):
        shown = [f"{by_lead[lead]:.3g}" if lead in by_lead else "" for by_lead in errors.values()]
        yield show_step(np.timedelta64(lead, "s")), *shown, gain(errors, lead)


def show_length(length: timedelta) -> str:
    """A length of time in its two largest units.

    >>> show_length(timedelta(hours=74, minutes=20)), show_length(timedelta(hours=6))
    ('3 d 2 h', '6 h')
    """
    minutes = int(abs(length).total_seconds() // 60)
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 2)
    shown = [f"{count} {unit}" for count, unit in parts[first : first + 2] if count] or ["0 min"]
    return ("-" if length < timedelta(0) and minutes else "") + " ".join(shown)


def show_bytes(number: int) -> str:
    """A number of bytes as one reads it.

    >>> show_bytes(999), show_bytes(1_234_567), show_bytes(56_000_000_000)
    ('999 B', '1.2 MB', '56 GB')
    """
    size = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"


def chosen_leads(seconds: Sequence[int]) -> list[int]:
    """At most eight of some lead times, evenly spaced up to the last.

    >>> chosen_leads([1, 2, 3]), chosen_leads(range(1, 13))
    ([1, 2, 3], [2, 4, 6, 8, 10, 12])
    """
    every = -(-len(seconds) // _LEADS_SHOWN)
    return list(seconds[::-1][::every][::-1])


def gain(errors: Mapping[str, Mapping[int, float]], lead: int) -> str:
    """How much smaller the forecast's error is than that of the best reference, in percent; empty without one."""
    references = [by_lead[lead] for source, by_lead in errors.items() if source != "forecast" and by_lead.get(lead)]
    own = errors["forecast"].get(lead)
    return f"{100 * (1 - own / min(references)):+.0f} %" if references and own is not None else ""
