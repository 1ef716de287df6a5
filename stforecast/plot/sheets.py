"""Sheets of panels that show one field after another: what maps and animations have in common."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.quiver import Quiver

from stforecast.grid import Grid
from stforecast.plot.canvas import Canvas, cells_of, draw_cells, mark_gaps, new_panels
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Values
from stforecast.plot.overlays import (
    Winds,
    draw_isolines,
    draw_winds,
    explain_winds,
    has_isolines,
    turn_winds,
)
from stforecast.plot.pictures import colour_bar
from stforecast.plot.words import given_units, label_of, name_of, shown_units, title_of

COMPARED = ("Forecast", "Truth", "Error: forecast minus truth")


class Sheet:
    """A figure of panels, each with its heading and its colours.

    Lead times are told in the unit that suits the longest; arrows are as long as suits a strong wind.

    Attributes:
        figure: the figure.
        panel: its panels, in reading order.
    """

    def __init__(
        self,
        canvas: Canvas,
        grid: Grid,
        headings: Sequence[str],
        colours: Sequence[Colours],
        *,
        longest: np.timedelta64 | None = None,
        strength: float = 1.0,
    ) -> None:
        self.figure, self.panel = new_panels(canvas, len(headings))
        self._canvas, self._grid, self._headings, self._colours = canvas, grid, headings, colours
        self._longest, self._strength = longest, strength
        self._meshes: dict[int, QuadMesh] = {}
        self._lines: dict[int, ContourSet] = {}
        self._arrows: dict[int, Quiver] = {}
        self._with_gaps: set[int] = set()
        self._across = 26 if len(headings) == 1 else 16

    @classmethod
    def compared(
        cls,
        canvas: Canvas,
        grid: Grid,
        shared: Colours,
        error: Colours,
        *,
        longest: np.timedelta64 | None = None,
        strength: float = 1.0,
    ) -> "Sheet":
        """Panels of forecast, truth and error; the first two share their colours."""
        return cls(canvas, grid, COMPARED, (shared, shared, error), longest=longest, strength=strength)

    def show(
        self,
        number: int,
        frame: xr.DataArray,
        values: Values,
        *,
        lined: Values | None = None,
        winds: Winds | None = None,
    ) -> None:
        """Let a panel show the values (Y, X) of a frame, in place of what it showed before.

        Args:
            number: which panel.
            frame: says what the values are and of when.
            values: what is coloured.
            lined: what has isolines, where charts have them of such a field; none by default.
            winds: what has arrows.
        """
        axes = self.panel[number]
        if number in self._meshes:
            self._meshes[number].set_array(cells_of(self._canvas, values))
        else:
            self._meshes[number] = draw_cells(axes, self._canvas, values, self._colours[number])
        if np.isnan(values).any() and number not in self._with_gaps:
            mark_gaps(axes, self._canvas)
            self._with_gaps.add(number)
        if number in self._lines:
            self._lines.pop(number).remove()  # with its labels
        if lined is not None and has_isolines(frame):
            # What is coloured itself shares the levels of its colours with other panels.
            colours = self._colours[number] if lined is values else Colours.of(frame, lined)
            self._lines[number] = draw_isolines(axes, self._canvas, frame, lined, colours)
        if winds is not None and number in self._arrows:
            turn_winds(self._arrows[number], self._canvas, winds, self._across)
        elif winds is not None:
            self._arrows[number] = draw_winds(axes, self._canvas, winds, self._strength, self._across)
        size = 11 if len(self.panel) == 1 else 9
        pad = 20 if self._canvas.is_round else None  # longitudes stand around it
        axes.set_title(title_of(self._headings[number], frame, self._grid, self._longest), fontsize=size, pad=pad)

    def compare(
        self, frame: xr.DataArray, predicted: Values, observed: Values, winds: Sequence[Winds] | None = None
    ) -> None:
        """Let the three panels show forecast, truth and error; the first two with isolines and with their winds."""
        for number, values in enumerate((predicted, observed)):
            self.show(number, frame, values, lined=values, winds=None if winds is None else winds[number])
        self.show(2, frame, predicted - observed)

    def name_all(self, frame: xr.DataArray) -> None:
        """Write the name of what several panels show above them."""
        if len(self.panel) > 1:
            self.figure.suptitle(name_of(frame), fontsize=14)

    def add_bar(self, frame: xr.DataArray) -> None:
        """One colour bar for all panels."""
        self._bar(self.panel, label_of(frame))

    def add_bars_of_comparison(self, frame: xr.DataArray) -> None:
        """One colour bar for forecast and truth, one for the error."""
        self._bar(self.panel[:2], label_of(frame))
        self._bar(self.panel[2:], f"error [{shown_units(frame)}]")

    def add_key(self, wind: xr.DataArray) -> None:
        """Say how long an arrow of some wind is, in the units that the winds have."""
        if len(self.panel) == 1:
            place = (0.96, 0.97 if self._canvas.kind in ("cap", "fan") else 1.03)  # the corners of round maps are empty
        else:  # above the first title, beside the name of all
            inches = 0.95 if self._canvas.is_round else 0.75
            place = (0.28, 1 + inches / self._canvas.height(len(self.panel)))
        explain_winds(self.panel[0], self._arrows[0], place, self._strength, given_units(wind))

    def _bar(self, panel: Sequence[Axes], label: str) -> None:
        mesh = self._meshes[self.panel.index(panel[0])]
        colour_bar(self.figure, mesh, panel, label, share=len(panel) / len(self.panel))
