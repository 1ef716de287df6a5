"""From a raw series to scores and pictures: what demo.py and real.py both do, in the public calls of the README."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr
from rich.console import Console

import stforecast as stf


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


@dataclass(frozen=True)
class Outcome:
    """What one recipe gave.

    Attributes:
        recipe: the recipe.
        forecaster: the fitted model.
        scores: its scores and the references' by lead time, over the test period.
        pictures: the files that were drawn.
    """

    recipe: Recipe
    forecaster: stf.Forecaster
    scores: xr.Dataset
    pictures: list[Path]


def run(raw: xr.Dataset, recipe: Recipe, folder: Path, console: Console) -> Outcome:
    """The outcome of preparing, fitting, forecasting, verifying and drawing one series; its files lie in `folder`."""
    console.rule(f"{recipe.name}: prepare")
    split = stf.Split.by_fraction(raw["time"].to_numpy())
    store = folder / f"{recipe.name}.zarr"
    series = stf.prepare(raw, store, split, allow_gaps=recipe.allow_gaps, overwrite=True, progress=True)
    console.print(f"{store}: {dict(series.sizes)}, split {split}")

    console.rule(f"{recipe.name}: fit")
    forecaster = stf.fit(
        store,
        history=recipe.history,
        horizon=recipe.horizon,
        network=recipe.network,
        training=recipe.training,
        progress=True,
    )
    training = forecaster.training
    console.print(
        f"best epoch {training['best_epoch'] + 1} of {recipe.training.epochs}, {training['windows']} windows, "
        f"{training['seconds']} s"
    )

    console.rule(f"{recipe.name}: forecast and verify")
    init_times = forecaster.init_times(series, part="test", horizon=recipe.leads)[:: recipe.every]
    forecast = stf.predict(series, forecaster, init_times=init_times, horizon=recipe.leads)
    scores = stf.evaluate(forecast, series, reference=recipe.references)
    print(stf.score_table(scores))
    return Outcome(recipe, forecaster, scores, _draw(forecast, series, scores, folder / recipe.name))


def _draw(forecast: xr.Dataset, series: xr.Dataset, scores: xr.Dataset, stem: Path) -> list[Path]:
    """One comparison and one skill curve for each variable; the paths of the pictures."""
    pictures = []
    for name in forecast.data_vars:
        comparison = stf.plot.comparison(forecast, series, variable=name)
        pictures.append(stf.plot.save(comparison, stem.with_name(f"{stem.name}_{name}_comparison.png")))
        curve = stf.plot.skill_curve(scores, variable=name)
        pictures.append(stf.plot.save(curve, stem.with_name(f"{stem.name}_{name}_skill.png")))
    return pictures
