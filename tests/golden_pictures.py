"""Pictures of every main kind, of fields from formulas: `make golden` writes those that the tests compare with."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import xarray as xr
from factory import TIME_ATTRS, make_times
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import uniform_filter
from test_plot import forecast_of, make_card, make_scores, with_bounds, with_intervals

from stforecast import plot
from stforecast.plot.movies import _Film

GOLDEN = Path(__file__).parent / "golden"
DPI = 50

Pixels = npt.NDArray[np.uint8]


def field(latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64], *, frames: int = 6) -> xr.Dataset:
    """A temperature that is like its mirror image in no direction, and the winds that go with it."""
    up, across = np.meshgrid(np.deg2rad(latitude), np.deg2rad(longitude), indexing="ij")
    times = make_times(frames, start="2014-01-01")
    phase = 0.5 * np.arange(frames)[:, None, None]
    wave = np.cos(2 * across - phase + 3 * up) * np.cos(up)
    warm = 285 + 25 * np.cos(up) - 8 * np.sin(up) + 6 * wave
    fields = {
        "air": (warm, {"units": "K", "long_name": "air temperature"}),
        "u10": (12 * np.cos(up) * np.sin(across - phase), {"units": "m s**-1", "standard_name": "eastward_wind"}),
        "v10": (8 * np.cos(across + 2 * up - phase), {"units": "m s**-1", "standard_name": "northward_wind"}),
        "slp": (101_300 + 2_500 * wave + 1_500 * np.sin(3 * up), {"units": "Pa", "long_name": "pressure"}),
    }
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values.astype(np.float32), attrs) for name, (values, attrs) in fields.items()},
        {
            "time": ("time", times, TIME_ATTRS),
            "lat": ("lat", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


def city() -> xr.Dataset:
    """Counts in New York, most of them in the south-west."""
    row, column = np.arange(16.0)[:, None], np.arange(12.0)[None]
    slot = np.arange(6)[:, None, None]
    counts = np.round((300 + 30 * slot) * np.exp(-((row - 11) ** 2) / 12 - (column - 3) ** 2 / 5) + 2 * row)
    flow = ("time", "row", "column"), counts.astype(np.float32), {"units": "1", "long_name": "vehicles flowing in"}
    axes = {
        "time": ("time", make_times(6, step="30m", start="2016-01-04"), TIME_ATTRS | {"time_zone": "America/New_York"}),
        "row": ("row", np.arange(16), {"axis": "Y"}),
        "column": ("column", np.arange(12), {"axis": "X"}),
    }
    return with_bounds(xr.Dataset({"inflow": flow}, axes))


GLOBE = field(np.arange(-85, 86, 10.0), np.arange(0, 360, 10.0))
ATLANTIC = field(np.arange(30, 71, 5.0), np.arange(-70, 11, 5.0))
ARCTIC = field(np.arange(50, 86, 5.0), np.arange(0, 360, 10.0))
PACIFIC = field(np.arange(-30, 11, 4.0), np.arange(100, 181, 4.0))


def bounded() -> xr.Dataset:
    """A forecast with bounds, and two cells without."""
    forecast = forecast_of(PACIFIC)[["air"]]
    width = 1 + np.abs(forecast["lat"]) / 10 + (forecast["lon"] - 100) / 40
    bounds = {f"air_{bound}": forecast["air"] + sign * width for bound, sign in (("lower", -1), ("upper", 1))}
    for name in bounds:
        bounds[name] = bounds[name].transpose(*forecast["air"].dims).assign_attrs(units="K", interval=0.9)
    bounds["air_upper"][..., 7, 4:6] = np.nan
    return forecast.assign(bounds)


def missed() -> xr.Dataset:
    """A truth that departs from its forecast by waves that grow to the east."""
    wave = 4 * np.sin(np.deg2rad(6 * (PACIFIC["lat"] + PACIFIC["lon"]))) * (PACIFIC["lon"] - 100) / 80
    return PACIFIC.assign(air=(PACIFIC["air"] + wave.astype(np.float32)).assign_attrs(PACIFIC["air"].attrs))


def scores() -> xr.Dataset:
    """Errors that grow with the lead time, of the climatology the most, with bands of confidence."""
    plain = make_scores()
    growing = np.linspace(0.4, 2.0, 8) ** 0.7
    of_source, of_metric = np.array([1.0, 1.5, 2.0])[:, None, None], np.array([0.2, 0.8, 1.0])[None, :, None]
    return with_intervals(plain.assign(t2m=plain["t2m"].copy(data=of_source * of_metric * growing)))


LOSSES = {
    "training_loss": [1.0, 0.5, 0.3, 0.2, 0.15, 0.12],
    "validation_loss": [0.9, 0.55, 0.4, 0.33, 0.31, 0.34],
    "best_epoch": 4,
}
CARD = ([[-25.0, -3.4, 0.0, 4.0], [8.0, np.nan, -0.2, -12.0]], [[-1, 0, 0, 0], [1, 0, 0, -1]])


@dataclass(frozen=True)
class Picture:
    """What was drawn.

    Attributes:
        pixels: (height, width, 3).
        panels: left, top, right and bottom of every panel, in pixels.
        bars: likewise of colour bars.
    """

    pixels: Pixels
    panels: list[list[float]]
    bars: list[list[float]]

    @classmethod
    def of(cls, figure: Figure, part: tuple[slice, slice] = (slice(None), slice(None))) -> "Picture":
        """Of a figure, or of a part of it."""
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        rows, columns = part
        top, left = rows.start or 0, columns.start or 0
        height = len(pixels)
        panels, bars = [], []
        for axes in figure.axes:
            box = axes.get_window_extent()
            sides = [box.x0 - left, height - box.y1 - top, box.x1 - left, height - box.y0 - top]
            (bars if axes.get_label() == "<colorbar>" else panels).append(sides)
        return cls(pixels[part], panels, bars)

    @classmethod
    def read(cls, path: Path) -> "Picture":
        """The picture that was written."""
        with Image.open(path) as image:
            return cls(np.asarray(image.convert("RGB")), *json.loads(image.info["boxes"]))

    def write(self, path: Path) -> None:
        """Write it, with its boxes among the metadata."""
        # Few colours make small files; the difference is far below the tolerance.
        few = Image.fromarray(self.pixels).quantize(256, kmeans=1, dither=Image.Dither.NONE)
        told = PngInfo()
        boxes = [[[round(side, 1) for side in box] for box in several] for several in (self.panels, self.bars)]
        told.add_text("boxes", json.dumps(boxes))
        few.save(path, optimize=True, pnginfo=told)

    def shares(self) -> npt.NDArray[np.float64]:
        """Where panels and bars stand, (box, 4), in shares of the width and of the height."""
        height, width, _ = self.pixels.shape
        return np.array([*self.panels, *self.bars]) / (width, height, width, height)

    def unlike(self, other: "Picture") -> tuple[float, float]:
        """How unlike the other's panels and its bars are, of 255.

        It is the difference that one in a hundred places of the worst panel exceeds. A panel is brought to the size of
        the other's, and both are smoothed, so that it counts for little where a panel stands and that a line or a
        letter is a pixel off.
        """
        panels = [self._apart(other, *both) for both in zip(self.panels, other.panels, strict=True)]
        bars = [self._apart(other, *both) for both in zip(self.bars, other.bars, strict=True)]
        return max(panels), max(bars, default=0.0)

    def _apart(self, other: "Picture", box: list[float], wanted: list[float]) -> float:
        size = (round(wanted[2] - wanted[0]), round(wanted[3] - wanted[1]))
        inner = np.array([2, 2, -2, -2])  # without the frame
        first, second = (
            Image.fromarray(picture.pixels).resize(size, Image.Resampling.BICUBIC, box=tuple(sides + inner))
            for picture, sides in ((self, np.array(box)), (other, np.array(wanted)))
        )
        return float(np.quantile(np.abs(smoothed(first) - smoothed(second)).max(axis=-1), 0.99))


def smoothed(image: Image.Image) -> npt.NDArray[np.float64]:
    """Means over 5 by 5 pixels."""
    means: npt.NDArray[np.float64] = uniform_filter(np.asarray(image, np.float64), (5, 5, 0))
    return means


def film_frame() -> Picture:
    """The second frame of a film."""
    forecast = forecast_of(city())
    film = _Film(forecast, [forecast["inflow"][-1, lead] for lead in range(3)], city() * 0.9 + 0)
    film.draw(1)
    return Picture.of(film._sheet.figure, film._box)


PICTURES: dict[str, Callable[[], Figure | Picture]] = {
    "map_globe": lambda: plot.forecast_map(forecast_of(GLOBE), variable="air"),
    "map_region": lambda: plot.forecast_map(forecast_of(ATLANTIC), variable="slp", winds=True),
    "map_polar": lambda: plot.forecast_map(forecast_of(ARCTIC), variable="air"),
    "map_city": lambda: plot.forecast_map(forecast_of(city())),
    "comparison": lambda: plot.comparison(forecast_of(PACIFIC, bias=0), missed()),
    "panels": lambda: plot.panels(forecast_of(PACIFIC, bias=3), variable="air"),
    "anomaly": lambda: plot.anomaly(forecast_of(missed()), PACIFIC),
    "interval": lambda: plot.interval(bounded()),
    "skill_curve": lambda: plot.skill_curve(scores()),
    "score_card": lambda: plot.score_card(make_card(*CARD)),
    "training_curve": lambda: plot.training_curve(LOSSES),
    "film_frame": film_frame,
}


def picture_of(draw: Callable[[], Figure | Picture]) -> Picture:
    """A picture with matplotlib's own letters and no settings of a user's."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["font.family"] = "DejaVu Sans"
        drawn = draw()
        if isinstance(drawn, Picture):
            return drawn
        drawn.set_dpi(DPI)
        return Picture.of(drawn)


def main() -> None:
    """Write all golden pictures anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        path = GOLDEN / f"{name}.png"
        picture_of(draw).write(path)
        print(f"{path} {path.stat().st_size:,} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
