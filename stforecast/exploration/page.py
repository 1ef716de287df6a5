"""The page: bokeh's figures, the values, and what moves them, in one file that asks no network for anything."""

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.events import DocumentReady
from bokeh.layouts import column, gridplot, row
from bokeh.models import (
    BasicTickFormatter,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    DatetimeTickFormatter,
    Div,
    HoverTool,
    Image,
    Legend,
    LegendItem,
    LinearColorMapper,
    Model,
    MultiLine,
    Range1d,
    Scatter,
    Select,
    Slider,
    Span,
    Text,
    Toggle,
    VArea,
)
from bokeh.models import Line as LineGlyph
from bokeh.plotting import figure
from bokeh.resources import INLINE

from stforecast.exploration.paper import Line, Paper
from stforecast.plot.fields import Values
from stforecast.plot.pictures import LINES

# Frames of maps are as large as fits two in a row, or three where they are tall.
_WIDEST, _WIDEST_OF_THREE, _TALLEST = 500, 330, 390
_TOOLS = "pan,wheel_zoom,box_zoom,reset,save"
_GREY = "#b8b8b8"
_TEMPLATE = """
{% block postamble %}
<style>body { font-family: sans-serif; box-sizing: border-box; padding: 1rem; }</style>
{% for name, words in payload.items() %}<script type="text/plain" id="{{ name }}">{{ words }}</script>
{% endfor %}
{% endblock %}
"""


def page_of(
    title: str, facts: Mapping[str, Any], values: Mapping[str, str], paper: Paper, degrees: Mapping[str, str]
) -> str:
    """The page as HTML.

    Args:
        title: of the window.
        facts: what view.js reads as `facts`.
        values: packed numbers by the id that view.js asks for.
        paper: what the maps are drawn on.
        degrees: the letters and the label of the axes x and y that tell degrees or cells, as `axis_words` gives them.
    """
    has_truth = facts["truth_times"] is not None
    models: dict[str, Model] = {
        "heading": Div(text="", styles={"font-size": "16px"}),
        "notes": Div(text="", styles={"color": "#555", "font-size": "12px"}),
        "readout": Div(text=str(facts["hint"]), styles={"color": "#555", "font-size": "13px", "min-height": "1.2em"}),
    }
    widgets = _widgets(facts, models)
    shown = ("forecast", "truth", "error") if has_truth else ("forecast",)
    is_tall = paper.shape > _TALL
    beside = "forecast" if not has_truth else "" if is_tall else "error"
    lines = _lines_of(paper)
    maps = [_map(what, facts, paper, models, degrees, lines, is_beside=what == beside) for what in shown]
    for other in maps[1:]:
        other.x_range, other.y_range = maps[0].x_range, maps[0].y_range
    course = _course(models, facts, paper)
    if not has_truth:
        rows = [[maps[0], course]]
    elif is_tall:
        rows = [maps, [course]]
    else:
        rows = [maps[:2], [maps[2], course]]
    # One grid for all rows would give columns one width, and squeeze or spread what is in them.
    panels = [
        gridplot([some], toolbar_location="right", merge_tools=True, toolbar_options={"logo": None}) for some in rows
    ]
    document = Document()
    document.add_root(column(models["heading"], row(*widgets, spacing=20), models["readout"], *panels, models["notes"]))
    code = files("stforecast.exploration").joinpath("view.js").read_text(encoding="utf-8")
    document.js_on_event(DocumentReady, CustomJS(args={"given": models}, code=code))
    # Names may hold what ends a script.
    told = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    payload = {"facts": told} | dict(values)
    page: str = file_html(document, INLINE, title, template=_TEMPLATE, template_variables={"payload": payload})
    return page


_TALL = 0.9


def _widgets(facts: Mapping[str, Any], models: dict[str, Model]) -> list[Model]:
    """Sliders for what there is more than one of, and a choice of variables."""
    inits, leads = len(facts["init_times"]), len(facts["lead_times"])
    titles = [channel["title"] for channel in facts["channels"]]
    if len(titles) > 1:
        models["channel"] = Select(title="variable", value=titles[0], options=titles, width=260)
    for name, count in (("init", inits), ("lead", leads)):
        if count > 1:
            models[name] = Slider(
                title=None, start=0, end=count - 1, step=1, value=facts[name], show_value=False, width=320
            )
            models[f"{name}_words"] = Div(text=name, styles={"font-size": "13px"})
    if leads > 1:
        models["play"] = Toggle(label="▶ play", width=80, align="end")
    told = {name: column(models[f"{name}_words"], models[name]) for name in ("init", "lead") if name in models}
    return [(models | told)[name] for name in ("channel", "init", "lead", "play") if name in told or name in models]


def _frame(paper: Paper, has_truth: bool) -> tuple[int, int]:
    """Width and height of a map's frame in pixels."""
    widest = _WIDEST if paper.shape <= _TALL or not has_truth else _WIDEST_OF_THREE
    width = min(widest, _TALLEST / paper.shape)
    return int(width), int(max(width * paper.shape, 160))


def _figure(frame: tuple[int, int], borders: tuple[int, int, int, int], **options: Any) -> figure:
    """A figure whose frame keeps its size and place, whatever its numbers and titles become.

    Args:
        frame: width and height.
        borders: what is left for words on the left, on the right, above and below.
        options: of bokeh's figure.
    """
    left, right, top, bottom = borders
    sides = {"min_border_left": left, "min_border_right": right, "min_border_top": top, "min_border_bottom": bottom}
    size = {"width": frame[0] + left + right, "height": frame[1] + top + bottom}
    return figure(tools=_TOOLS, **size, **sides, **options)


# What is left for words around the time series: on the left, on the right, above and below.
_AROUND_COURSE = (85, 20, 60, 60)


def _borders_of(paper: Paper, *, is_beside: bool) -> tuple[int, int, int, int]:
    """What is left for words around a map; in a row bokeh squeezes what has less above and below than others."""
    left, above, below = (10, 30, 10) if paper.edge is not None else (80, 30, 50)
    return left, 80, _AROUND_COURSE[2] if is_beside else above, _AROUND_COURSE[3] if is_beside else below


def _map(
    what: str,
    facts: Mapping[str, Any],
    paper: Paper,
    models: dict[str, Model],
    degrees: Mapping[str, str],
    drawn: Sequence[tuple[ColumnDataSource, dict[str, Any]]],
    *,
    is_beside: bool,
) -> figure:
    """A map; it stands beside the time series or in a row of maps."""
    west, east, south, north = paper.limits
    room = 0.0 if paper.edge is None else 0.05
    apart = room * (east - west), room * (north - south)
    width, height = _frame(paper, facts["truth_times"] is not None)
    axes = _figure(
        (width, height),
        _borders_of(paper, is_beside=is_beside),
        x_range=Range1d(west - apart[0], east + apart[0]),
        y_range=Range1d(south - apart[1], north + apart[1]),
        title=what,
    )
    own = facts["channels"][0]["error_colours" if what == "error" else "colours"]
    colours = LinearColorMapper(nan_color=_GREY, low_color="rgba(0, 0, 0, 0)", **own)
    image = {"x": [west], "y": [south], "dw": [east - west], "dh": [north - south]}
    source = ColumnDataSource({"image": [np.zeros((1, 1), np.float32)]} | image)
    axes.add_glyph(source, Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=colours))
    for lines, style in drawn:
        axes.add_glyph(lines, MultiLine(xs="xs", ys="ys", **style))
    if paper.edge is not None:
        axes.axis.visible = False
        axes.outline_line_color = None
    else:
        axes.xaxis.axis_label, axes.yaxis.axis_label = degrees["x_label"], degrees["y_label"]
        for axis, letters in ((axes.xaxis, degrees["x_letters"]), (axes.yaxis, degrees["y_letters"])):
            axis.formatter = _tick_formatter(letters)
        axes.xaxis.ticker.desired_num_ticks = max(width // 110, 2)
        axes.xaxis.ticker.num_minor_ticks = axes.yaxis.ticker.num_minor_ticks = 0
    axes.grid.visible = False
    names = ColumnDataSource({name: [at[part] for at in paper.names] for part, name in enumerate(("x", "y", "text"))})
    words = {"text_font_size": "11px", "text_color": "#222222", "text_align": "center", "text_baseline": "middle"}
    behind = {"background_fill_color": "#ffffff", "background_fill_alpha": 0.5, "padding": 2}
    axes.add_glyph(names, Text(x="x", y="y", text="text", **words, **behind))
    place = models.setdefault("place", ColumnDataSource({"x": [], "y": []}))
    for colour, thick in (("white", 4), ("black", 2)):
        axes.add_glyph(place, Scatter(x="x", y="y", size=13, line_color=colour, line_width=thick, fill_alpha=0))
    axes.add_layout(ColorBar(color_mapper=colours, formatter=_plain(), width=12, padding=6), "right")
    models |= {f"{what}_map": axes, f"{what}_source": source, f"{what}_colours": colours}
    return axes


def _lines_of(paper: Paper) -> list[tuple[ColumnDataSource, dict[str, Any]]]:
    """The lines that all maps have over their cells, with their style."""
    edge = [] if paper.edge is None else [paper.edge]
    styles: list[tuple[Sequence[Line], dict[str, Any]]] = [
        (paper.graticule, {"line_color": "#555555", "line_width": 0.6, "line_dash": "dotted"}),
        (paper.borders, {"line_color": "#262626", "line_width": 0.6}),
        (paper.coast, {"line_color": "#000000", "line_width": 1.0}),
        (edge, {"line_color": "#555555", "line_width": 1.0}),
    ]
    drawn = []
    for lines, style in styles:
        xs, ys = ([_rounded(line[:, part], paper) for line in lines] for part in (0, 1))
        if lines:
            drawn.append((ColumnDataSource({"xs": xs, "ys": ys}), style))
    return drawn


def _rounded(numbers: Values, paper: Paper) -> list[float]:
    """Numbers to within a ten thousandth of the width of the map, which is less than a pixel."""
    west, east, *_ = paper.limits
    rounded: list[float] = numbers.round(4 - int(np.floor(np.log10(east - west)))).tolist()
    return rounded


def _tick_formatter(letters: str) -> CustomJSTickFormatter:
    """Degrees with the letter of their side; rows, which are turned over, as they are counted; else numbers."""
    code = {
        "EW": "const d = Math.round((((tick + 180) % 360 + 360) % 360 - 180) * 1e4) / 1e4\n"
        "return Math.abs(d) + '°' + (d === 0 || d === -180 ? '' : d > 0 ? 'E' : 'W')",
        "NS": "const d = Math.round(tick * 1e4) / 1e4\nreturn Math.abs(d) + '°' + (d === 0 ? '' : d > 0 ? 'N' : 'S')",
        "-": "return String(Math.round(-tick * 1e4) / 1e4)",
        "": "return String(Math.round(tick * 1e4) / 1e4)",
    }[letters]
    return CustomJSTickFormatter(code=code)


def _plain() -> BasicTickFormatter:
    return BasicTickFormatter(use_scientific=False)


def _course(models: dict[str, Model], facts: Mapping[str, Any], paper: Paper) -> figure:
    """The figure of the time series at a cell."""
    has_truth = facts["truth_times"] is not None
    width, height = _frame(paper, has_truth)
    frame = (max(width, 420 if has_truth else 520), height)
    if has_truth and paper.shape > _TALL:
        frame = (3 * width + 200, max(220, height // 2))
    axes = _figure(frame, _AROUND_COURSE, x_axis_type="datetime", title="time series")
    axes.xaxis.axis_label = f"valid time [{facts['zone']}]" if facts["zone"] else "valid time"
    dates = dict.fromkeys(("minsec", "minutes", "hourmin", "hours"), "%d %b %Y")
    axes.xaxis.formatter = DatetimeTickFormatter(
        minutes="%H:%M",
        hours="%H:%M",
        days="%d %b",
        context=DatetimeTickFormatter(**dates, days="%Y"),
        context_which="start",
    )
    axes.yaxis.formatter = _plain()
    blue, orange = LINES[0][0], LINES[1][0]
    # Axes that begin without data complain.
    times = [facts["init_times"][0], facts["init_times"][0] + facts["lead_times"][-1]]
    band = ColumnDataSource({"x": times, "low": [0, 0], "high": [1, 1]})
    truth, forecast = (ColumnDataSource({"x": times, "y": [0, 1]}) for _ in range(2))
    area = axes.add_glyph(band, VArea(x="x", y1="low", y2="high", fill_color=blue, fill_alpha=0.2))
    known = axes.add_glyph(truth, LineGlyph(x="x", y="y", line_color="#1a1a1a", line_width=1.6))
    line = axes.add_glyph(forecast, LineGlyph(x="x", y="y", line_color=blue, line_width=2.4))
    dots = axes.add_glyph(forecast, Scatter(x="x", y="y", line_color=blue, fill_color=blue, size=5))
    items = [LegendItem(label="forecast", renderers=[line, dots])]
    if any("lower" in channel["parts"] for channel in facts["channels"]):
        items.append(LegendItem(label=facts["interval"], renderers=[area]))
    if has_truth:
        items.append(LegendItem(label="truth", renderers=[known]))
    axes.add_layout(Legend(items=items, orientation="horizontal", border_line_alpha=0, padding=0, margin=2), "above")
    tips = [("valid", "@x{%F %H:%M}"), ("forecast", "@y")]
    axes.add_tools(HoverTool(renderers=[dots], tooltips=tips, formatters={"@x": "datetime"}))
    lines = {
        "init_line": Span(dimension="height", location=times[0], line_color="#666666", line_width=1),
        "valid_line": Span(
            dimension="height", location=times[0], line_color=orange, line_width=1.5, line_dash="dashed"
        ),
    }
    for span in lines.values():
        axes.add_layout(span)
    models |= {"course": axes, "course_forecast": forecast, "course_band": band, "course_truth": truth} | lines
    return axes


def height_of(paper: Paper, has_truth: bool) -> int:
    """How high the page is, in pixels."""
    _, height = _frame(paper, has_truth)
    if not has_truth:
        return height + 320
    return height + max(220, height // 2) + 440 if paper.shape > _TALL else 2 * height + 400


def framed(page: str, height: int) -> str:
    """The page as a frame in a notebook's output."""
    return f'<iframe srcdoc="{html.escape(page)}" width="100%" height="{height}" style="border: none"></iframe>'
