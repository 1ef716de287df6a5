"""The models that come with the package: `make pretrained` fits them, or packages what an earlier run has fitted.

Fitted models lie in data/runs/pretrained in full precision; what is there is not fitted again. Each packaged model is
in half precision and has a card with its scores on the test period, as it is packaged.
"""

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from real import NEW_YORK
from rich.console import Console

import stforecast as stf
from stforecast.presets import PresetName

CONFIDENCE = 0.95
FITTED = Path("data/runs/pretrained")
PACKAGED = Path("stforecast/pretrained_models")


@dataclass(frozen=True)
class Origin:
    """Where a packaged model comes from.

    Attributes:
        title: what it forecasts.
        path: its data, below the folder of the real series.
        options: how they are opened.
        preset: what is fitted.
        horizon: steps that it is fitted to forecast, and how many of them a call gives, if not the preset's.
        references: what it is compared with.
        data: the data's origin and licence.
        limits: what to know before it is used.
    """

    title: str
    path: str
    options: dict[str, object]
    preset: PresetName
    horizon: tuple[int, int] | None
    references: tuple[str, ...]
    data: str
    limits: str


WEATHER = ("persistence", "climatology", "damped_anomaly_persistence", "lagged_regression")
CITY = (
    "persistence",
    "same_time_last_week",
    "historical_average",
    "damped_anomaly_persistence",
    "lagged_regression",
)
NOAA = (
    "NCEP/NCAR Reanalysis 1, {what}, from NOAA PSL, Boulder, Colorado (https://psl.noaa.gov), public domain; Kalnay et "
    "al. 1996, https://doi.org/10.1175/1520-0477(1996)077<0437:TNYRP>2.0.CO;2."
)
ORIGINS = {
    "new-york-taxi": Origin(
        "Taxi flows in New York, half-hourly, 4 hours ahead",
        "taxinyc/NYC16_M16x12_T30_InOut.h5",
        {"bounds": NEW_YORK, "time_zone": "America/New_York"},
        "traffic",
        None,
        CITY,
        "Yellow taxi trips of January to March 2016 of the New York City Taxi and Limousine Commission (open data), "
        "counted on 16x12 cells by the authors of STSAN (MIT licence).",
        "Two months of one winter, of which one day was a blizzard: it knows neither summer nor today's traffic, and "
        "wants the very grid of the data. Most of its skill is the weekly cycle and the regression that it corrects.",
    ),
    "north-america-air": Origin(
        "Air temperature near the surface over North America, 6-hourly, 3 days ahead",
        "ncep_air",
        {},
        "weather",
        None,
        WEATHER,
        NOAA.format(
            what="air temperature at sigma 0.995, 2013 and 2014; the same values as xarray's tutorial data set"
        ),
        "A year and a half of training, at 2.5 degrees. Operational forecasts are far better; this one is to learn "
        "with, and to compare others with.",
    ),
    "north-atlantic-pressure": Origin(
        "Mean sea level pressure over the North Atlantic, daily, 10 days ahead",
        "ncep_slp",
        {},
        "weather",
        (10, 5),
        WEATHER,
        NOAA.format(what="daily mean sea level pressure, 2001 to 2010"),
        "It sees pressure alone, once a day: beyond four days it is hardly better than the climatology, and says so by "
        "coming close to it.",
    ),
}


def main() -> None:
    """Fit what is not fitted yet, then package all, or those that are named."""
    console = Console()
    data = Path(os.environ.get("STFORECAST_DATA") or ".")
    named = sys.argv[1:] or list(ORIGINS)
    for name in named:
        if not (data / ORIGINS[name].path).exists():
            sys.exit(f"{data / ORIGINS[name].path} is not there; set STFORECAST_DATA (data/README.md)")
    for name in named:
        origin = ORIGINS[name]
        console.rule(name)
        series = stf.open_dataset(data / origin.path, **origin.options).load()
        folder = FITTED / name
        if not folder.exists():
            fit_preset(series, origin).save(folder)
        package(name, stf.Forecaster.load(folder), series)
        console.print(f"packaged {name}")


def fit_preset(series: xr.Dataset, origin: Origin) -> stf.Forecaster:
    """The preset, fitted."""
    preset = stf.preset_of(origin.preset)
    horizon, at_once = origin.horizon or (preset.horizon, preset.network.frames_per_call)
    network = replace(preset.network, frames_per_call=at_once)
    return stf.fit(series, preset=origin.preset, horizon=horizon, network=network, progress=True)


def package(name: str, fitted: stf.Forecaster, series: xr.Dataset) -> None:
    """Save a fitted model with the package, score what was saved, and write its card."""
    folder = PACKAGED / name
    # Calibrated as it is packaged: where nothing is ever counted, rounding is all the error there is.
    with tempfile.TemporaryDirectory() as place:
        rounded = stf.Forecaster.load(fitted.save(Path(place) / name, half=True))
    shutil.rmtree(folder, ignore_errors=True)
    rounded.calibrated(series).save(folder, half=True)
    forecaster = stf.Forecaster.load(folder)
    forecast = forecaster.backtest(series)
    scores = stf.evaluate(forecast, series, reference=ORIGINS[name].references, confidence=CONFIDENCE)
    (folder / "README.md").write_text(card(name, forecaster, scores))


def card(name: str, forecaster: stf.Forecaster, scores: xr.Dataset) -> str:
    """What there is to know of a model, as Markdown."""
    origin, training, split = ORIGINS[name], forecaster.training, forecaster.split
    parameters = sum(weights.numel() for weights in forecaster.network.parameters())
    packages = ", ".join(f"{one} {version(one)}" for one in ("stforecast", "torch", "lightning"))
    config = training["config"]
    return (
        f"# {name}\n\n{origin.title}.\n\n"
        f"```python\nforecast = stforecast.predict(dataset)  # or model={name!r}\n```\n\n"
        f"- **Wants** {forecaster}; {forecaster.history} frames without gaps before each init time.\n"
        f"- **Data**: {origin.data}\n"
        f"- **Split**: train {'..'.join(split.train)}, validation {'..'.join(split.validation)}, test "
        f"{'..'.join(split.test)}. Validation chose the weights; the test period was only scored.\n"
        f"- **Fitted** by `make pretrained` (pipelines/pretrain.py): preset `{origin.preset}`, "
        f"{forecaster.frames_per_call} of {forecaster.horizon} steps a call, {parameters:,} "
        f"parameters, {config['epochs']} epochs of which number {training['best_epoch'] + 1} was the best, seed "
        f"{config['seed']}, {training['seconds']:.0f} s on the CPU of a machine with {os.cpu_count()} shared cores, "
        f"Python {platform.python_version()}, {packages}. The weights are kept in half precision.\n"
        "- **Intervals** (`interval=0.9`) are calibrated on the validation period; docs/intervals.md has how much "
        "of the truth of the test period lay inside.\n"
        f"- **Limits**: {origin.limits}\n\n"
        f"Root mean square errors over the test period, {scores.attrs['init_time_count']} init times, area-weighted on "
        "geographic grids; references are fitted on the training period and scored on the same cells and times.\n\n"
        f"{stf.score_table(scores)}\n\n"
        f"By how many per cent that error is below a reference's, with {100 * CONFIDENCE:g} % confidence intervals by "
        "a paired moving-block bootstrap over init times:\n\n"
        f"{skill_table(scores)}"
    )


def skill_table(scores: xr.Dataset) -> str:
    """The skill against each reference by lead time, with its interval, as Markdown."""
    tables = []
    for name in map(str, scores.data_vars):
        skill = 100 * scores[f"{name}_skill"].sel(source="forecast", metric="rmse")
        bounds = 100 * scores[f"{name}_skill_interval"].sel(source="forecast", metric="rmse")
        references = [str(one) for one in skill["reference"].to_numpy()]
        rows = []
        for lead in scores["lead_time"].to_numpy():
            cells = []
            for one in references:
                at = {"lead_time": lead, "reference": one}
                low, high = bounds.sel(at).to_numpy()
                cells.append(f"{skill.sel(at).item():.1f} ({low:.1f} to {high:.1f})")
            rows.append(f"| {lead / np.timedelta64(1, 'h'):g} h | {' | '.join(cells)} |")
        head = f"| lead time | {' | '.join(references)} |\n|---:|{'---:|' * len(references)}\n"
        tables.append(f"{name}\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(tables)


if __name__ == "__main__":
    main()
