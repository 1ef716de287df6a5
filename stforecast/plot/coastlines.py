"""Coastlines, lakes and borders, which come with the package."""

from functools import cache
from importlib.resources import as_file, files
from typing import Any

import cartopy.crs as ccrs
from cartopy.feature import ShapelyFeature
from cartopy.io.shapereader import BasicReader


@cache
def outlines() -> Any:
    """Coastlines and the shores of lakes."""
    shapes = [record.geometry for name in ("coastline", "lakes") for record in _records(name)]
    return ShapelyFeature(shapes, ccrs.PlateCarree(), facecolor="none")


@cache
def borders() -> tuple[Any, Any]:
    """International borders, and those that are disputed or not defined."""
    records = _records("admin_0_boundary_lines_land")
    is_settled = [str(record.attributes["featurecla"]).startswith("International") for record in records]
    settled = [record.geometry for record, settled in zip(records, is_settled, strict=True) if settled]
    disputed = [record.geometry for record, settled in zip(records, is_settled, strict=True) if not settled]
    plate = ccrs.PlateCarree()
    return ShapelyFeature(settled, plate, facecolor="none"), ShapelyFeature(disputed, plate, facecolor="none")


def _records(name: str) -> list[Any]:
    """The features of one of the shipped Natural Earth files."""
    with as_file(files("stforecast").joinpath("natural_earth")) as folder:
        reader = BasicReader(folder / f"ne_110m_{name}.shp")
        records = list(reader.records())
        reader.close()
    return records
