"""The page of a pipeline, read as a browser reads it."""

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled import PREPARED, TIMES, clock_of, deliver, make_pipeline

from stforecast.errors import StforecastError
from stforecast.operations.page import PAGE, newest_maps, status_page, write_page
from stforecast.operations.running import run
from stforecast.operations.status import Attempt, Gap, Status, status
from stforecast.operations.words import STATES

NOW = datetime(2016, 2, 10, 1, 5, tzinfo=UTC)
EVIL = "</style><script>alert(1)</script><img src=//evil.example/x onerror='a'>\"'&\x00\udcff\u202e"
# The smallest picture there is: one grey point.
POINT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def a_status(**changes: Any) -> Status:
    """That of a pipeline at which nothing is wrong."""
    errors = {"forecast": {21600: 1.0, 43200: 2.0, 86400: 4.0}, "persistence": {21600: 1.5, 43200: 3.0, 86400: 6.0}}
    whole = Status(
        pipeline="air",
        now=NOW,
        time_zone=None,
        due=TIMES[PREPARED],
        newest=TIMES[PREPARED],
        oldest=TIMES[0],
        published=100,
        age=timedelta(hours=1, minutes=5),
        limit=timedelta(hours=13),
        choice={"made_by": "model", "last_frame": "2016-02-10T00:00", "is_degraded": False, "reason": ""},
        runs=(Attempt("2016-02-10T00:00", "published", 1, "2016-02-10T01:00", "2016-02-10T01:01", None, "", (), 9.5),),
        days=30,
        recent={"forecasts": 100, "degraded": 3},
        skill={"from": "a", "to": "b", "forecasts": 9, "units": {"t2m": "K"}, "rmse": {"t2m": errors}},
        model={"name": "north", "sha256": "0123456789abcdef", "used_before": []},
        disk_bytes={"output": 1_000_000, "store": 2_000_000, "free": 3_000_000_000},
    )
    return replace(whole, **changes)


class Reader(HTMLParser):
    """What a page has: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_is_alone(page: str) -> Reader:
    """A page that runs nothing and asks for nothing."""
    read = Reader(page)
    assert read.open == []
    assert not {tag for tag, _ in read.elements} & {"script", "iframe", "object", "embed", "form", "base", "video"}
    for _, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not re.search(r"url\(|@import|expression", style)
    policy = next(one["content"] for one in read.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return read


def test_a_page_says_how_things_stand_in_words() -> None:
    read = check_is_alone(status_page([a_status()], {"air": {"t2m_024h": POINT}}))
    for said in (
        "The newest forecast is of 2016-02-10T00:00, made by model; it is 1 h 5 min old, wanted 13 h at most.",
        "Written at 2016-02-10 01:05 UTC. If it is past 2016-02-10 13:00 UTC now, no run has come to its end since.",
        "3 of 100 of the last 30 days",
        "1.0 MB of forecasts, 2.0 MB of store, 3.0 GB free",
        "north (0123456789ab)",
        "9 forecasts that have come true",
    ):
        assert said in read.text
    (picture,) = read.of("img")
    assert base64.b64decode((picture["src"] or "").removeprefix("data:image/png;base64,")) == POINT
    assert picture["alt"] == "Map t2m_024h of the forecast of 2016-02-10T00:00"


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("fresh", {}),
        ("degraded", {"choice": {"made_by": "persistence", "last_frame": "x", "is_degraded": True, "reason": "late"}}),
        ("failing", {"runs": (Attempt("i", "failed", 3, "b", "e", "RANGE", "too hot", ("a", "b"), 1.0),)}),
        ("failing", {"runs": (Attempt("i", "killed", 1, "b", None, None, "", (), 1.0),)}),
        ("stale", {"age": timedelta(days=3)}),
        ("stale", {"newest": None, "oldest": None, "age": None, "published": 0, "choice": {}, "recent": {}}),
    ],
)
def test_each_state_has_a_sign_and_words_beside_its_colour(state: str, changes: dict[str, Any]) -> None:
    stands = a_status(**changes)
    assert stands.state == state
    page = status_page([stands], {})
    read = check_is_alone(page)
    assert STATES[state][1] in read.text
    assert page.index('class="sign"') < page.index("</h1>")
    assert f"<title>{STATES[state][0]} air</title>" in page


def test_what_others_named_is_text_and_nothing_else() -> None:
    run = Attempt(EVIL, EVIL, 1, EVIL, EVIL, EVIL, EVIL, (EVIL,), 1.0)
    choice = {"made_by": EVIL, "last_frame": EVIL, "is_degraded": True, "reason": EVIL}
    skill = a_status().skill | {
        "units": {EVIL: EVIL},
        "from": EVIL,
        "rmse": {EVIL: {"forecast": {1: 1.0}, EVIL: {1: 1.0}}},
    }
    model = {"name": EVIL, "sha256": EVIL, "used_before": []}
    evil = a_status(
        pipeline=EVIL,
        time_zone=EVIL,
        choice=choice,
        gaps=(Gap(EVIL, EVIL),),
        gap_count=1,
        active=EVIL,
        runs=(run,),
        last_success=EVIL,
        skill=skill,
        model=model,
        faults=(EVIL,),
    )
    clean = status_page(
        [a_status(gaps=(Gap("x", "x"),), gap_count=1, active="x", faults=("x",))], {"air": {"x": POINT}}
    )
    page = status_page([evil], {EVIL: {EVIL: POINT}})
    read = check_is_alone(page)
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in Reader(clean).elements} | {"div"}
    assert r"\x00\udcff\u202e" in read.text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", page)
    page.encode()


def test_a_curve_stands_where_the_errors_are() -> None:
    """Heights are in proportion to errors, from zero, and places to lead times."""
    page = status_page([a_status()], {})
    paths = re.findall(r'<path d="M([\d.,L]+)" class="stroke">', page)
    lines = [[tuple(map(float, point.split(","))) for point in path.split("L")] for path in paths]
    marks = re.findall(r'<path d="M56.0,([\d.]+)H620" class="grid">', page)
    zero, one = float(marks[0]), (float(marks[0]) - float(marks[-1])) / 6
    for line, errors in zip(lines, ((1, 2, 4), (1.5, 3, 6)), strict=True):
        x, y = np.array(line).T
        np.testing.assert_allclose(zero - y, np.array(errors) * one, atol=0.1)
        np.testing.assert_allclose(x - 56, np.array([6, 12, 24]) / 24 * 564, atol=0.1)
    assert re.findall(r'class="(line\d(?: own)?)"', page) == ["line0 own", "line1"]


@pytest.mark.parametrize("largest", [0.0, 1e-9, 0.02, 1.0, 4.99, 6.59, 1013.0, 9.9e7])
def test_a_curve_has_few_round_marks_up_to_its_top(largest: float) -> None:
    rmse = {"t2m": {"forecast": {3600: 0.0, 7200: largest}}}
    page = status_page([a_status(skill=a_status().skill | {"rmse": rmse})], {})
    marks = [float(mark) for mark in re.findall(r'class="end">([^<]+)<', page)]
    assert 2 <= len(marks) <= 6
    assert marks[0] == 0
    assert marks[-1] >= largest * 0.999
    digits = f"{marks[1]:.3e}".partition("e")[0]
    assert digits in ("1.000", "2.000", "2.500", "5.000")
    np.testing.assert_allclose(np.diff(marks), marks[1], rtol=1e-4)


def test_a_page_is_whole_or_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / PAGE
    write_page(file, "first")
    write_page(file, "second")
    assert file.read_text() == "second"
    with pytest.raises(UnicodeEncodeError):
        write_page(file, "cut \udcff")
    assert file.read_text() == "second"
    assert list(tmp_path.iterdir()) == [file]


def test_maps_fit_on_a_page(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, PREPARED)
    run(pipeline, clock=clock_of(PREPARED))
    stands = status(pipeline, clock=clock_of(PREPARED))
    assert newest_maps(pipeline.output, stands) == {}
    maps = pipeline.output / "latest" / "maps"
    maps.mkdir()
    for number in range(20):
        (maps / f"t2m_{number:03d}h.png").write_bytes(bytes([number]) * 2**20)
    found = newest_maps(pipeline.output, stands)
    assert found == {f"t2m_{number:03d}h": bytes([number]) * 2**20 for number in range(8)}
    assert newest_maps(pipeline.output, replace(stands, newest=TIMES[0])) == {}


def test_a_run_leaves_a_page_whether_it_publishes_or_fails(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    (Path(pipeline.input.path) / "<b>bold.nc").write_text("<html>")
    with pytest.raises(StforecastError, match="1 frame"):
        run(pipeline, clock=clock_of(PREPARED))
    read = check_is_alone((pipeline.output / PAGE).read_text())
    assert "stale" in read.text
    assert "[INPUT_INCOMPLETE]" in read.text
    assert "incoming/<b>bold.nc" in read.text
    deliver(pipeline, PREPARED)
    run(pipeline, clock=clock_of(PREPARED))
    read = check_is_alone((pipeline.output / PAGE).read_text())
    assert "up to date" in read.text
    assert "published, attempt 2" in read.text
    # A run that is about to end is not said to be active.
    assert "running" not in read.text
    with pytest.raises(StforecastError):
        run(pipeline, clock=clock_of(PREPARED + 1))
    assert "up to date, but the last run failed" in (pipeline.output / PAGE).read_text()


def test_a_page_that_cannot_be_written_changes_no_outcome(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    (pipeline.output / PAGE).mkdir(parents=True)
    deliver(pipeline, PREPARED)
    outcome = run(pipeline, clock=clock_of(PREPARED))
    assert outcome.status == "published"
    (warning,) = outcome.record["warnings"]
    assert warning.startswith("status page: [Errno 21] Is a directory")
    assert str(tmp_path) not in warning
    assert status(pipeline, clock=clock_of(PREPARED)).runs[0].warnings == (warning,)
    with pytest.raises(StforecastError, match="1 frame"):
        run(pipeline, clock=clock_of(PREPARED + 1))
