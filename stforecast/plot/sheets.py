"""Sheets of panels that show one field after another: what maps and animations have in common."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet

from stforecast.grid import Grid
from stforecast.plot.canvas import Canvas, cells_of, draw_cells, new_panels
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Values
from stforecast.plot.overlays import draw_isolines, has_isolines
from stforecast.plot.pictures import colour_bar
from stforecast.plot.words import label_of, name_of, shown_units, title_of

COMPARED = ("Forecast", "Truth", "Error: forecast minus truth")


class Sheet:
    """A figure of panels, each with its heading and its colours.

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
        has_isolines: bool = True,
    ) -> None:
        self.figure, self.panel = new_panels(canvas, len(headings))
        self._canvas, self._grid, self._headings, self._colours = canvas, grid, headings, colours
        self._longest, self._has_isolines = longest, has_isolines
        self._meshes: dict[int, QuadMesh] = {}
        self._lines: dict[int, ContourSet] = {}

    @classmethod
    def compared(
        cls,
        canvas: Canvas,
        grid: Grid,
        shared: Colours,
        error: Colours,
        *,
        longest: np.timedelta64 | None = None,
    ) -> "Sheet":
        """Panels of forecast, truth and error; the first two share their colours."""
        return cls(canvas, grid, COMPARED, (shared, shared, error), longest=longest)

    def show(self, number: int, frame: xr.DataArray, values: Values) -> None:
        """Let a panel show the values (Y, X) of a frame, in place of what it showed before."""
        axes = self.panel[number]
        if number in self._meshes:
            self._meshes[number].set_array(cells_of(self._canvas, values))
        else:
            self._meshes[number] = draw_cells(axes, self._canvas, values, self._colours[number])
        colours = self._colours[number]
        if number in self._lines:
            self._lines.pop(number).remove()  # with its labels
        if (
            self._has_isolines and has_isolines(frame) and colours.low != -colours.high
        ):  # of a field, not of a difference
            self._lines[number] = draw_isolines(axes, self._canvas, frame, values, colours)
        size = 11 if len(self.panel) == 1 else 9
        pad = 20 if self._canvas.is_round else None  # longitudes stand around it
        axes.set_title(title_of(self._headings[number], frame, self._grid, self._longest), fontsize=size, pad=pad)

    def compare(self, frame: xr.DataArray, predicted: Values, observed: Values) -> None:
        """Let the three panels show forecast, truth and error."""
        for number, values in enumerate((predicted, observed, predicted - observed)):
            self.show(number, frame, values)

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

    def _bar(self, panel: Sequence[Axes], label: str) -> None:
        mesh = self._meshes[self.panel.index(panel[0])]
        colour_bar(self.figure, mesh, panel, label, share=len(panel) / len(self.panel))
