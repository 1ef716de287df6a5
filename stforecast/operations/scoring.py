"""Forecasts that have come true, each scored once against references."""

from typing import Any

import numpy as np
import xarray as xr

from stforecast.baselines import fit_references, needs_training
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import sync
from stforecast.grid import forecast_variables, times_of
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import name_of
from stforecast.operations.pipeline import Pipeline
from stforecast.operations.skill import SCORES
from stforecast.split import Split
from stforecast.store import open_store
from stforecast.store.versions import remember
from stforecast.time_axis import show_time
from stforecast.verification import evaluate

# A run that follows on a long pause leaves the rest to the next ones.
_MOST_AT_ONCE = 50


def score_due(pipeline: Pipeline, archive: Archive) -> list[str]:
    """The names of the init times that were scored now: those whose truth is in the store, or will not come any more.

    Raises:
        StforecastError: the first fault of a forecast that cannot be read, once all others are scored.
    """
    store = open_store(pipeline.store)
    times = times_of(store)
    folder = pipeline.output / SCORES
    folder.mkdir(parents=True, exist_ok=True)
    due: dict[np.datetime64, dict[str, Any]] = {}
    damaged: list[StforecastError] = []
    for init in archive.inits()[::-1]:
        if len(due) == _MOST_AT_ONCE:
            break
        if (folder / f"{name_of(init)}.json").exists():
            continue
        try:
            record = archive.record(init)
        except StforecastError as error:
            damaged.append(error)
            continue
        leads = record["forecast"]["lead_seconds"]
        last = init + np.timedelta64(max(leads), "s")
        # A frame that is missing may yet come; where many are there behind it, it will not. One alone may be misdated.
        if last in times or (times > last).sum() >= len(leads):
            due[init] = record
    done = _score_all(pipeline, archive, store, due, damaged) if due else []
    if done:
        # Forecasts may be deleted behind this, and cannot be scored again.
        sync(folder)
    if damaged:
        raise damaged[0]
    return done


def _score_all(
    pipeline: Pipeline,
    archive: Archive,
    store: xr.Dataset,
    due: dict[np.datetime64, dict[str, Any]],
    damaged: list[StforecastError],
) -> list[str]:
    """The names of the init times that could be scored; what stops the others is added to `damaged`."""
    horizon = max(len(record["forecast"]["lead_seconds"]) for record in due.values())
    names = pipeline.scores.references
    training = store.sel(time=slice(*Split.from_attrs(store.attrs).train)) if needs_training(names) else None
    references = fit_references(names, training, horizon=horizon)
    done = []
    for init, record in due.items():
        try:
            with archive.forecast(init) as forecast:
                loaded = forecast.load()
        except (StforecastError, OSError, RuntimeError) as error:
            fault = f"the forecast of {show_time(init)} cannot be scored: {error}"
            damaged.append(StforecastError(ErrorKind.STORE_CORRUPT, fault))
            continue
        remember(pipeline.output / SCORES / f"{name_of(init)}.json", _score(loaded, store, references, record))
        done.append(name_of(init))
    return done


def _score(forecast: xr.Dataset, store: xr.Dataset, references: Any, record: dict[str, Any]) -> dict[str, Any]:
    """The scores of one forecast, as plain values."""
    known = {"init": record["init"], "made_by": record["choice"]["made_by"]}
    known |= {"is_degraded": record["choice"]["is_degraded"], "lead_seconds": record["forecast"]["lead_seconds"]}
    names = [name for name in forecast_variables(forecast) if name in store]
    try:
        scores = evaluate(forecast[names], store[names], reference=references, metrics=("rmse", "mae", "bias"))
    except StforecastError as error:
        # Truth that has a gap there, or none that a reference could begin from, does not come any more.
        if error.kind not in (ErrorKind.EMPTY_SELECTION, ErrorKind.TIME_RANGE):
            raise
        return known | {"scores": {}, "reason": str(error)}
    verified = {int(lead / np.timedelta64(1, "s")): row for row, lead in enumerate(scores["lead_time"].to_numpy())}
    plain = {
        str(name): {
            str(source): {
                str(metric): [
                    _plain(scores[name].sel(source=source, metric=metric).isel(lead_time=verified[lead]))
                    if lead in verified
                    else None
                    for lead in known["lead_seconds"]
                ]
                for metric in scores["metric"].to_numpy()
            }
            for source in scores["source"].to_numpy()
        }
        for name in scores.data_vars
    }
    return known | {"scores": plain, "units": {str(name): str(forecast[name].attrs["units"]) for name in names}}


def _plain(value: xr.DataArray) -> float | None:
    """A score, over all levels where there are several; None where there is none."""
    number = float(np.sqrt(np.square(value).mean())) if value.ndim else float(value)
    return None if not np.isfinite(number) else number
