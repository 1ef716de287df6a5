"""Figures without pyplot, their colour bars, and the files that they are saved to."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named, replacing


def save(figure: Figure, path: str | Path) -> Path:
    """The path of the picture, which is written whole or not at all; the parent folder is made.

    Args:
        figure: any figure of this module.
        path: ends in .png, .pdf or .svg, which chooses the format.

    Raises:
        StforecastError: ARGUMENT for another ending; DISK_FULL, PERMISSION or IO_ERROR if it cannot be written, and
            what was at `path` before stays.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"pictures are written as {', '.join(_SUFFIXES)}: {path} should end in one of these"
        )
    with faults_named(path), replacing(path) as temporary:
        figure.savefig(temporary, **_SAVED)
    return path


_SUFFIXES = (".pdf", ".png", ".svg")


Layout = Literal["compressed", "constrained"]


class Picture(Figure):
    """A figure that a notebook shows by itself; Matplotlib's own do so only once pyplot has set up its backend."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture as a saved PNG, and the width and height in pixels at which a notebook is to show it."""
        content = io.BytesIO()
        self.savefig(content, format="png", **_SAVED)
        png = content.getvalue()
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of PNG's first block
        return png, {"width": width // 2, "height": height // 2}  # sharp where a screen has two dots a pixel


_SAVED: dict[str, Any] = {"dpi": 150, "bbox_inches": "tight", "pad_inches": 0.15}


def new_figure(size: tuple[float, float], layout: Layout = "constrained") -> Picture:
    """An empty figure of so many inches, width and height."""
    # Not pyplot's: it would keep every figure until it is closed, and choose a backend.
    figure = Picture(figsize=size, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def colour_bar(figure: Figure, mesh: QuadMesh, panel: Sequence[Axes], label: str, *, share: float) -> None:
    """A bar below some panels, which take that share of the figure's width."""
    length = 0.8 * share * figure.get_figwidth()  # inches
    bar = figure.colorbar(
        mesh, ax=list(panel), location="bottom", shrink=0.8, aspect=length / 0.14, pad=0.15 / figure.get_figheight()
    )
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=8)
    bar.locator = MaxNLocator(7)
    bar.update_ticks()


# Okabe and Ito's colours, which colour-blind eyes tell apart (doi:10.1038/nmeth.1618); the markers tell them apart too.
LINES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#000000", "P"),
    ("#56B4E9", "X"),
)


def lighten(axes: Axes) -> None:
    """A pale grid behind the lines, and no frame above and to the right."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
