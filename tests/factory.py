"""Tiny labelled series for tests, seeded."""

import numpy as np
import xarray as xr

TIME_ATTRS = {"standard_name": "time", "axis": "T"}


def make_times(frames: int, *, step: str = "6h", start: str = "2016-01-01", absent: tuple[int, ...] = ()) -> np.ndarray:
    count, unit = int(step[:-1]), step[-1]
    times = np.datetime64(start, "ns") + np.arange(frames) * np.timedelta64(count, unit)
    return np.delete(times, list(absent))


def make_series(
    frames: int = 80,
    *,
    shape: tuple[int, int] = (4, 6),
    step: str = "6h",
    absent: tuple[int, ...] = (),
    variables: tuple[str, ...] = ("t2m",),
    levels: tuple[float, ...] = (),
    descending: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """Waves that travel east over a mean state, with a little noise, on a grid that spans the globe."""
    rng = np.random.default_rng(seed)
    times = make_times(frames, step=step, absent=absent)
    rows, columns = shape
    latitude = np.linspace(-60, 60, rows) if rows > 1 else np.array([45.0])
    longitude = np.arange(columns) * 360 / columns
    phase = np.deg2rad(longitude)[None, None] - 0.4 * np.arange(frames)[:, None, None]
    wave = 8 * np.sin(phase) * np.cos(np.deg2rad(latitude))[None, :, None]
    kept = np.setdiff1d(np.arange(frames), absent)
    data = {}
    for number, name in enumerate(variables):
        values = 280 + 10 * number + wave + 0.5 * rng.standard_normal((frames, rows, columns))
        values = values[kept].astype(np.float32)
        dims: tuple[str, ...] = ("time", "latitude", "longitude")
        if levels:
            values = values[:, None] + 20 * np.arange(len(levels), dtype=np.float32)[:, None, None]
            dims = ("time", "level", "latitude", "longitude")
        data[name] = (dims, values, {"units": "K", "long_name": f"variable {name}"})
    coords = {
        "time": ("time", times, TIME_ATTRS),
        "latitude": ("latitude", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    if levels:
        coords["level"] = ("level", np.asarray(levels), {"units": "hPa"})
    made = xr.Dataset(data, coords)
    return made.isel(latitude=slice(None, None, -1)) if descending else made


def make_city(frames: int = 96, *, shape: tuple[int, int] = (5, 4), seed: int = 0) -> xr.Dataset:
    """Half-hourly counts with a daily cycle, on a plane of rows from the north and columns from the west."""
    rng = np.random.default_rng(seed)
    times = make_times(frames, step="30m", start="2016-01-04")
    slot = np.arange(frames) % 48
    mean = 20 + 15 * np.sin(2 * np.pi * slot / 48)
    flows = {
        name: (
            ("time", "row", "column"),
            rng.poisson(mean[:, None, None], (frames, *shape)).astype(np.float32),
            {"units": "1", "valid_min": 0},
        )
        for name in ("inflow", "outflow")
    }
    coords = {
        "time": ("time", times, TIME_ATTRS | {"time_zone": "America/New_York"}),
        "row": ("row", np.arange(shape[0]), {"axis": "Y"}),
        "column": ("column", np.arange(shape[1]), {"axis": "X"}),
    }
    return xr.Dataset(flows, coords)
