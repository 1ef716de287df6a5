"""From a raw series to scores and pictures: what demo.py and real.py both do, in the public calls of the README."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console

import stforecast as stf
from stforecast.local_time import nonexistent_times


@dataclass(frozen=True)
class Recipe:
    """One series and how it is forecast.

    Attributes:
        name: what its files are called.
        history: frames that the network sees.
        horizon: frames that it learns to forecast.
        leads: frames that are forecast and verified; beyond the horizon by a rollout.
        network: the network's size.
        training: how it is fitted.
        references: what the forecast is compared with.
        allow_gaps: declares that frames may be absent.
        every: verify forecasts from every so many frames of the test period.
        rivals: other networks by name, and how they are fitted, scored beside.
    """

    name: str
    history: int
    horizon: int
    leads: int
    network: stf.NetworkConfig
    training: stf.TrainingConfig
    references: Sequence[str] = field(default=("persistence", "climatology", "damped_anomaly_persistence"))
    allow_gaps: bool = False
    every: int = 1
    rivals: Mapping[str, tuple[stf.NetworkConfig, stf.TrainingConfig]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one recipe gave.

    Attributes:
        recipe: the recipe.
        forecaster: the fitted model.
        scores: its scores and the references' by lead time, over the test period.
        pictures: the files that were drawn.
        without_skipped: for a city, the scores without the forecasts that touch an hour that its clock skips.
    """

    recipe: Recipe
    forecaster: stf.Forecaster
    scores: xr.Dataset
    pictures: list[Path]
    without_skipped: xr.Dataset | None = None


def run(raw: xr.Dataset, recipe: Recipe, folder: Path, console: Console) -> Outcome:
    """The outcome of preparing, fitting, forecasting, verifying and drawing one series; its files lie in `folder`."""
    console.rule(f"{recipe.name}: prepare")
    split = stf.Split.by_fraction(raw["time"].to_numpy())
    store = folder / f"{recipe.name}.zarr"
    series = stf.prepare(raw, store, split, allow_gaps=recipe.allow_gaps, overwrite=True, progress=True)
    console.print(f"{store}: {dict(series.sizes)}, split {split}")

    console.rule(f"{recipe.name}: fit")
    forecaster = _fit(store, recipe, recipe.network, recipe.training)
    done = forecaster.training
    console.print(
        f"best epoch {done['best_epoch'] + 1} of {recipe.training.epochs}, {done['windows']} windows, "
        f"{done['seconds']} s"
    )

    console.rule(f"{recipe.name}: forecast and verify")
    init_times = forecaster.init_times(series, part="test", horizon=recipe.leads)[:: recipe.every]
    # It is scored and drawn, so made once and kept.
    forecast = stf.predict(series, forecaster, init_times=init_times, horizon=recipe.leads).load()
    scores = stf.evaluate(forecast, series, reference=recipe.references)
    touching = _skipped(forecast)
    without_skipped = None
    if touching.any():
        without_skipped = stf.evaluate(forecast.isel(init_time=~touching), series, reference=recipe.references)
    for name, (network, training) in recipe.rivals.items():
        console.rule(f"{recipe.name}: {name}")
        rival = _fit(store, recipe, network, training)
        forecast_of_rival = stf.predict(series, rival, init_times=init_times, horizon=recipe.leads).load()
        # The common sample is the same, because the references that are scored beside are.
        own = stf.evaluate(forecast_of_rival, series, reference=recipe.references).sel(source=["forecast"])
        scores = xr.concat([scores, own.assign_coords(source=[name])], "source", combine_attrs="override")
    print(stf.score_table(scores))
    pictures = _draw(forecast, series, scores, folder / recipe.name)
    return Outcome(recipe, forecaster, scores, pictures, without_skipped)


def _skipped(forecast: xr.Dataset) -> np.ndarray:
    """Which init times have a skipped hour as init time or among their valid times, (init_time,)."""
    zone = forecast["init_time"].attrs.get("time_zone")
    times = np.column_stack([forecast["init_time"].to_numpy(), forecast["valid_time"].to_numpy()])
    if zone is None:
        return np.zeros(len(times), bool)
    return np.isin(times, nonexistent_times(times.ravel(), zone)).any(axis=1)


def _fit(store: Path, recipe: Recipe, network: stf.NetworkConfig, training: stf.TrainingConfig) -> stf.Forecaster:
    options = {"history": recipe.history, "horizon": recipe.horizon, "network": network, "training": training}
    return stf.fit(store, progress=True, **options)


def _draw(forecast: xr.Dataset, series: xr.Dataset, scores: xr.Dataset, stem: Path) -> list[Path]:
    """One comparison and one skill curve for each variable; the paths of the pictures."""
    pictures = []
    for name in forecast.data_vars:
        comparison = stf.plot.comparison(forecast, series, variable=name)
        pictures.append(stf.plot.save(comparison, stem.with_name(f"{stem.name}_{name}_comparison.png")))
        curve = stf.plot.skill_curve(scores, variable=name)
        pictures.append(stf.plot.save(curve, stem.with_name(f"{stem.name}_{name}_skill.png")))
    return pictures
