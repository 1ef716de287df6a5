"""An interactive view of forecasts: maps, and the time series of any cell, in one page that needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.exploration.contents import (
    axis_words,
    channel_of,
    check_size,
    facts_of,
    interval_of,
    levels_of,
    observed_in,
    truth_rows,
)
from stforecast.exploration.packing import packed
from stforecast.exploration.paper import Paper
from stforecast.files import replacing, unwritten
from stforecast.grid import Grid
from stforecast.plot.canvas import canvas_of
from stforecast.plot.context import Surroundings
from stforecast.plot.fields import field_of, variables_of
from stforecast.plot.places import Cell, Place


@dataclass(frozen=True)
class View:
    """A page with sliders for init and lead time, maps that can be clicked, and the time series of the clicked cell.

    In a notebook it shows itself. Saved, it is one HTML file that any browser since 2023 opens, without a network and
    without Python.

    Attributes:
        html: the page.
        height: how high it is, in pixels.
    """

    html: str = field(repr=False)
    height: int

    def save(self, path: str | Path) -> Path:
        """The path of the page, which is written whole or not at all; the parent folder is made.

        Args:
            path: ends in .html.

        Raises:
            StforecastError: ARGUMENT for another ending; DISK_FULL, PERMISSION or IO_ERROR if it cannot be written, and
                what was at `path` before stays.
        """
        path = Path(path)
        if path.suffix.lower() != ".html":
            raise StforecastError(ErrorKind.ARGUMENT, f"a view is written as .html: {path} should end in it")
        try:
            with replacing(path) as temporary:
                temporary.write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise unwritten(error, path) from error
        return path

    def _repr_html_(self) -> str:
        from stforecast.exploration.page import framed

        return framed(self.html, self.height)


def explore(
    forecast: xr.Dataset,
    truth: xr.Dataset | None = None,
    *,
    variables: Sequence[str] | None = None,
    at: Place | None = None,
    projection: Any = None,
    context: Surroundings = None,
    most_megabytes: float = 50,
) -> View:
    """An interactive view of forecasts: `stf.explore(forecast, truth).save("view.html")`, or as it is in a notebook.

    Sliders choose the init and the lead time. Maps show the forecast and, where a truth is given, the truth and the
    error; each keeps its colours for all times, so that they can be compared. A click on a map draws the time series of
    that cell, with its interval where the forecast has one. Values are rounded to a decimal step, of which the range of
    the variable has at least 2,000; so 80 K are told by the hundredth.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: a series (time, [level,] Y, X) on the forecast's cells in any order; times that it lacks have no truth.
        variables: all by default, and of each all levels; the page has a choice of them.
        at: the cell whose time series is shown at first, as for `plot.meteogram`; the middle one of the map by default.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, as for `plot.comparison`.
        most_megabytes: what the values may take in the page, at most; compressed they mostly take two thirds of
            what is reckoned here, and the page itself takes 2 more.

    Raises:
        StforecastError: ARGUMENT if bokeh is missing, for values that are too many, or for what is no choice; what
            `check_forecast` refuses; VAR_MISSING or EMPTY_SELECTION for what the forecast does not hold; VAR_MISSING,
            UNITS, GRID_SHAPE or CHANNELS if the truth does not match; TIME_RANGE if it has none of the valid times; NAN
            for a variable without any value; INF; DIMS for an ensemble.
    """
    page = _page_module()
    names = variables_of(forecast, variables)
    fields = [(field_of(forecast, name, level), level) for name in names for level in levels_of(forecast, name)]
    grid = Grid.of(forecast)
    observed = None if truth is None else observed_in(truth, forecast[names])
    check_size(forecast, observed, names, grid.y.size * grid.x.size, most_megabytes)
    canvas = canvas_of(forecast, grid, projection, context)
    row, column = (int(some[len(some) // 2]) for some in (canvas.rows, canvas.columns))
    if at is not None:
        cell = Cell.at(forecast, at)
        row, column = cell.row, cell.column
    rows = np.empty((0, 0), np.intp) if observed is None else truth_rows(forecast, observed)
    channels: list[dict[str, Any]] = []
    values: dict[str, str] = {}
    for number, (variable, level) in enumerate(fields):
        channel, parts = channel_of(forecast, observed, rows, variable, level)
        channels.append(channel)
        values |= {f"{part}-{number}": text for part, text in parts.items()}
    titles = [channel["title"] for channel in channels]
    for channel, (variable, _) in zip(channels, fields, strict=True):
        if titles.count(channel["title"]) > 1:
            channel["title"] += f" ({variable.name})"
    paper = Paper.of(canvas)
    values |= {"cells": packed(paper.cells), "centres": packed(paper.centres.astype("<f4"))}
    facts = facts_of(forecast, observed, rows, grid) | {
        "channels": channels,
        "cell": row * grid.shape[1] + column,
        "pixels": list(paper.cells.shape),
        "limits": list(paper.limits),
        "interval": interval_of(forecast, names),
        "hint": "Click on a map to see the time series of a cell.",
    }
    title = f"Forecast of {', '.join(names)}"
    return View(page.page_of(title, facts, values, paper, axis_words(canvas)), page.height_of(paper, truth is not None))


def _page_module() -> Any:
    """The module that draws with bokeh, which is an extra."""
    try:
        from stforecast.exploration import page
    except ImportError as error:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "explore draws with bokeh, which is not there; install it: pip install 'stforecast[explore]'",
        ) from error
    return page
