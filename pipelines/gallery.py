"""Every kind of picture in one page: `make gallery` writes data/runs/gallery.html, which needs nothing beside it.

Where STFORECAST_DATA names the folder of the real series, the packaged models forecast them; without it generated
series are forecast by damped anomaly persistence. The page says which.
"""

import base64
import html
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from pretrain import ORIGINS
from rich.console import Console

import stforecast as stf
from stforecast.baselines import DampedAnomalyPersistence
from stforecast.grid import Grid
from stforecast.pretrained import packaged_model

PAGE = Path("data/runs/gallery.html")
# So many forecasts are scored; the page shows kinds of pictures, docs/results.md has the scores.
SCORED = 60
SHARES = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Exhibit:
    """One series with its forecasts.

    Attributes:
        title: what it is, and who forecasts.
        series: the truth, whole.
        training: the part of it that references are fitted on.
        forecast: forecasts of its test period.
        last: the last of them, with bounds where the model gives some.
        bounded: forecasts of the same init times with bounds of several shares, where the model gives some.
        record: losses by epoch, where a network was fitted.
    """

    title: str
    series: xr.Dataset
    training: xr.Dataset
    forecast: xr.Dataset
    last: xr.Dataset
    bounded: Sequence[xr.Dataset] = ()
    record: dict[str, object] | None = None


def real(folder: Path) -> Iterator[Exhibit]:
    """The real series, each forecast by the packaged model for it."""
    for name in stf.packaged_models():
        origin = ORIGINS[name]
        series = stf.open_dataset(folder / origin.path, **origin.options).load()
        forecaster = packaged_model(name)
        horizon = forecaster.horizon
        init_times = forecaster.init_times(series, part="test", horizon=horizon)
        chosen = init_times[:: max(1, len(init_times) // SCORED)]
        forecast = stf.predict(series, forecaster, init_times=chosen, horizon=horizon)
        last = stf.predict(series, forecaster, init_times=init_times[-1:], horizon=horizon, interval=0.9)
        bounded = [
            stf.predict(series, forecaster, init_times=chosen, horizon=horizon, interval=share) for share in SHARES
        ]
        training = series.sel(time=slice(*forecaster.split.train))
        title = f"{origin.title}: packaged model {name}. {origin.data}"
        yield Exhibit(title, series, training, forecast, last, bounded, forecaster.training)


def generated() -> Iterator[Exhibit]:
    """Generated series in two providers' layouts, forecast by damped anomaly persistence."""
    for kind, options, horizon in (("weather", {"variables": ["t2m"]}, 12), ("traffic", {}, 8)):
        with tempfile.TemporaryDirectory() as folder:
            stf.write_sample(kind, folder, years=1)
            series = stf.open_dataset(folder, **options).load()
        times = series["time"].to_numpy()
        training = series.isel(time=slice(0, int(0.7 * len(times))))
        baseline = DampedAnomalyPersistence.fit(training, horizon=horizon)
        candidates = times[int(0.8 * len(times)) : -horizon]
        forecast = baseline.predict(
            series, init_times=candidates[:: max(1, len(candidates) // SCORED)], horizon=horizon
        )
        title = f"Generated {kind}, for want of real data: damped anomaly persistence"
        yield Exhibit(title, series, training, forecast, forecast.isel(init_time=[-1]))


def pictures_of(exhibit: Exhibit) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Each kind of picture with its caption."""
    last, series = exhibit.last, exhibit.series
    name = str(next(iter(exhibit.forecast.data_vars)))
    middle = last["lead_time"].to_numpy()[last.sizes["lead_time"] // 2]
    yield "forecast_map", lambda: stf.plot.forecast_map(last, variable=name, lead_time=middle)
    yield "comparison", lambda: stf.plot.comparison(last, series, variable=name, lead_time=middle)
    yield "panels", lambda: stf.plot.panels(last, variable=name)
    yield "anomaly", lambda: stf.plot.anomaly(last, exhibit.training, variable=name, lead_time=middle)
    if f"{name}_lower" in last:
        yield "interval", lambda: stf.plot.interval(last, variable=name, lead_time=middle)
    grid = Grid.of(last)
    place = {name: float(some[len(some) // 2]) for name, some in ((grid.y_name, grid.y), (grid.x_name, grid.x))}
    yield "meteogram", lambda: stf.plot.meteogram(last, series, at=place, normal=exhibit.training)
    if series["time"].to_numpy()[1] - series["time"].to_numpy()[0] < np.timedelta64(1, "D"):
        yield "profile", lambda: stf.plot.profile(series, at=place)
    if not grid.is_geographic:
        yield "profile, by weekday", lambda: stf.plot.profile(series, by="weekday")
    references = ["persistence", "climatology" if grid.is_geographic else "historical_average"]
    scores = stf.evaluate(exhibit.forecast, series, reference=references, training=exhibit.training, confidence=0.95)
    yield "skill_curve", lambda: stf.plot.skill_curve(scores, variable=name)
    yield (
        "skill_curve, against a reference",
        lambda: stf.plot.skill_curve(scores, variable=name, reference="persistence"),
    )
    yield "score_card", lambda: stf.plot.score_card(stf.verification.score_card(scores, metric="rmse"))
    observed = series.sel(time=np.isin(series["time"], exhibit.forecast["valid_time"]))
    powers = stf.verification.spectrum(exhibit.forecast), stf.verification.spectrum(observed)
    yield "spectra", lambda: stf.plot.spectra(*powers, variable=name)
    if exhibit.bounded:
        measured = [stf.verification.coverage(forecast, series) for forecast in exhibit.bounded]
        yield "reliability", lambda: stf.plot.reliability(measured, variable=name)
    if exhibit.record is not None:
        yield "training_curve", lambda: stf.plot.training_curve(exhibit.record)


def winds() -> Figure:
    """An idealised jet and its waves, which the real series do not have: arrows over isolines of geopotential."""
    latitude, longitude = np.arange(21.25, 90, 2.5), np.arange(0, 360, 2.5)
    y, x = np.meshgrid(np.deg2rad(latitude), np.deg2rad(longitude), indexing="ij")
    # Geostrophic on the sphere: u and v follow from the slope of z, so arrows run along the isolines.
    z = 53_000 + 4_000 * np.cos(y) ** 2 - 1_500 * np.sin(y) ** 2 + 900 * np.cos(5 * x) * np.sin(2 * y) ** 4
    slope_y, slope_x = np.gradient(z, np.deg2rad(latitude), np.deg2rad(longitude))
    coriolis, radius = 2 * 7.292e-5 * np.sin(y), 6.371e6
    fields = {"z": z, "u": -slope_y / (coriolis * radius), "v": slope_x / (coriolis * radius * np.cos(y))}
    attrs = {
        "z": {"units": "m**2 s**-2", "long_name": "geopotential at 500 hPa (idealised)"},
        "u": {"units": "m s**-1", "standard_name": "eastward_wind"},
        "v": {"units": "m s**-1", "standard_name": "northward_wind"},
    }
    coords = {
        "time": ("time", np.array(["2016-01-01", "2016-01-02"], "datetime64[ns]")),
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    }
    dims = ("time", "latitude", "longitude")
    frames = {name: (dims, np.stack([field, field]).astype(np.float32), attrs[name]) for name, field in fields.items()}
    forecast = stf.baselines.Persistence().predict(xr.Dataset(frames, coords), init_times=["2016-01-01"], horizon=1)
    return stf.plot.forecast_map(forecast, variable="z", winds=True)


def main() -> None:
    """Draw everything, then write the page."""
    console = Console()
    data = os.environ.get("STFORECAST_DATA")
    blocks = []
    with tempfile.TemporaryDirectory() as folder:
        for number, exhibit in enumerate(real(Path(data)) if data else generated()):
            console.rule(exhibit.title.split(":")[0])
            blocks.append(f"<h2>{html.escape(exhibit.title)}</h2>")
            for caption, draw in pictures_of(exhibit):
                path = stf.plot.save(draw(), Path(folder) / f"{number}_{caption.replace(', ', '_')}.png")
                blocks.append(embedded(path, caption))
            film = stf.plot.animation(exhibit.last, Path(folder) / f"{number}.gif", truth=exhibit.series, progress=True)
            blocks.append(embedded(film, "animation"))
        blocks.append("<h2>Winds and isolines around a pole (idealised, no forecast)</h2>")
        blocks.append(embedded(stf.plot.save(winds(), Path(folder) / "winds.png"), "forecast_map with winds=True"))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(blocks, "real series and packaged models" if data else "generated series"))
    console.print(f"wrote {PAGE} ({PAGE.stat().st_size / 2**20:.1f} MB)")


def embedded(path: Path, caption: str) -> str:
    """A picture inside the page, with its caption."""
    kind = path.suffix.removeprefix(".")
    content = base64.b64encode(path.read_bytes()).decode()
    words = html.escape(caption)
    return (
        f'<figure><img src="data:image/{kind};base64,{content}" alt="{words}"><figcaption>{words}</figcaption></figure>'
    )


def page(blocks: list[str], what: str) -> str:
    """The page as HTML."""
    style = "body{font-family:sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    style += "figure{margin:2rem 0}figcaption{color:#555;font-family:monospace}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>stforecast: pictures</title>'
        f"<style>{style}</style></head><body><h1>stforecast: every kind of picture</h1>"
        f"<p>Made by <code>make gallery</code> from {what}, with stforecast.plot.</p>{''.join(blocks)}</body></html>\n"
    )


if __name__ == "__main__":
    main()
