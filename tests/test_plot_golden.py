"""The main pictures look as those in tests/golden, which a person has looked at; `make golden` writes them anew."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cartopy.crs as ccrs
import numpy as np
import pytest
import xarray as xr
from cartopy.feature import ShapelyFeature
from golden_pictures import ATLANTIC, GOLDEN, PACIFIC, PICTURES, Picture, missed, picture_of
from PIL import Image
from test_plot import forecast_of

from stforecast import plot
from stforecast.plot import canvas, sheets

# Letters and lines are drawn otherwise by each minor version of matplotlib. From 3.9 with cartopy 0.24 to 3.11 with
# cartopy 0.26 panels differ by up to 18 (cards, which are full of letters, by 31), bars by up to 34, and they move by
# up to 4 %. What is wrong differs by more: lost coastlines by 43 to 66 on most maps, lost isolines by 25, lost arrows
# by 48, another colour map by 98 to 190.
PANEL, CARD, BAR, MOVED = 21.0, 40.0, 60.0, 0.06


def check(name: str, picture: Picture, folder: Path) -> None:
    """Nothing, if the picture looks like the golden one of a name."""
    golden = Picture.read(GOLDEN / f"{name}.png")
    seen = folder / f"{name}.png"
    Image.fromarray(picture.pixels).save(seen)
    look = f"look at {seen} beside {GOLDEN / seen.name}, and write it anew with `make golden` if it is meant so"
    assert (len(picture.panels), len(picture.bars)) == (len(golden.panels), len(golden.bars)), look
    assert np.abs(picture.shares() - golden.shares()).max() < MOVED, f"a panel stands elsewhere: {look}"
    panels, bars = picture.unlike(golden)
    assert panels < (CARD if name == "score_card" else PANEL), f"a panel differs by {panels:.0f}: {look}"
    assert bars < BAR, f"a colour bar differs by {bars:.0f}: {look}"


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_did(name: str, tmp_path: Path) -> None:
    check(name, picture_of(PICTURES[name]), tmp_path)


def test_golden_pictures_are_of_what_is_drawn_and_small() -> None:
    files = list(GOLDEN.iterdir())
    assert {file.stem for file in files} == set(PICTURES)
    assert sum(file.stat().st_size for file in files) < 400_000


def turned(forecast: xr.Dataset, dim: str) -> xr.Dataset:
    """The values in the opposite order along a dimension whose labels stay."""
    return forecast.isel({dim: slice(None, None, -1)}).assign_coords({dim: forecast[dim]})


NOTHING = ShapelyFeature([], ccrs.PlateCarree(), facecolor="none")


def other_colours(axes: object, on: canvas.Canvas, values: np.ndarray, colours: sheets.Colours) -> object:
    return canvas.draw_cells(axes, on, values, replace(colours, name={"viridis": "plasma"}[colours.name]))


@pytest.mark.parametrize(
    ("name", "draw", "change"),
    [
        (
            "map_region",
            lambda: plot.forecast_map(turned(forecast_of(ATLANTIC), "lat"), variable="slp", winds=True),
            None,
        ),
        (
            "map_region",
            lambda: plot.forecast_map(turned(forecast_of(ATLANTIC), "lon"), variable="slp", winds=True),
            None,
        ),
        ("map_region", lambda: plot.forecast_map(forecast_of(ATLANTIC), variable="slp"), None),  # without winds
        ("comparison", lambda: plot.comparison(forecast_of(missed(), bias=0), PACIFIC), None),  # swapped
        ("anomaly", PICTURES["anomaly"], (canvas, "outlines", lambda: NOTHING)),
        ("map_region", PICTURES["map_region"], (sheets, "has_isolines", lambda frame: False)),
        ("map_region", PICTURES["map_region"], (sheets, "draw_cells", other_colours)),
        ("map_city", PICTURES["map_city"], (canvas, "_draw_context", lambda axes, on: None)),
    ],
    ids=["north-south", "east-west", "winds", "swapped", "coastlines", "isolines", "colours", "shores"],
)
def test_a_picture_that_is_wrong_does_not_pass(
    name: str,
    draw: Callable[[], object],
    change: tuple[object, str, object] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change is not None:
        monkeypatch.setattr(*change)
    with pytest.raises(AssertionError, match="a panel differs by"):
        check(name, picture_of(draw), tmp_path)


def test_panels_that_change_places_do_not_pass(tmp_path: Path) -> None:
    leads = ["18h", "12h", "6h"]
    drawn = picture_of(lambda: plot.panels(forecast_of(PACIFIC, bias=3), variable="air", lead_times=leads))
    with pytest.raises(AssertionError, match="a panel differs by"):
        check("panels", drawn, tmp_path)
    with pytest.raises(AssertionError, match="a panel stands elsewhere"):
        check("panels", replace(drawn, panels=drawn.panels[::-1]), tmp_path)
