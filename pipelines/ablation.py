"""What each part of the presets is worth on real data: `make ablation` writes docs/ablation.md.

Everything is judged on the validation periods, which also chose the presets; the test periods are docs/results.md's.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from real import NEW_YORK, PLAIN

import stforecast as stf

FOLDER = Path("data/runs/ablation")
PAGE = Path("docs/ablation.md")
PRESETS = {"taxi": "traffic", "air": "weather"}
LEADS = {"taxi": (1, 4, 8), "air": (1, 2, 4, 12)}

Change = Callable[[stf.Preset], stf.Preset]
Row = dict[str, Any]


def network(**options: object) -> Change:
    """A preset with another network."""
    return lambda preset: replace(preset, network=replace(preset.network, **options))


def training(**options: object) -> Change:
    """A preset that is fitted otherwise."""
    return lambda preset: replace(preset, training=replace(preset.training, **options))


def rolled(steps: int) -> Change:
    """A preset that gives a part of its horizon a call, fitted on its own output for the rest."""
    return lambda preset: training(rollout_steps=steps)(at_once(preset.horizon // steps)(preset))


def at_once(frames: int | None) -> Change:
    """A preset that gives so many frames a call, fitted on one call."""
    return network(frames_per_call=frames)


def with_members(preset: stf.Preset, members: int) -> stf.Preset:
    """A preset of another number of members, each of which sees as many windows as one of the preset's does."""
    config, there = preset.training, preset.network.members
    epochs, batch_size = config.epochs * members // there, config.batch_size * members // there
    config = replace(config, epochs=epochs, batch_size=batch_size)
    return replace(preset, network=replace(preset.network, members=members), training=config)


BASE = "one network, one call"
BOTH: dict[str, Change] = {
    BASE: lambda preset: preset,
    "first guess: none, as published": network(**PLAIN),
    "first guess: the last frame": network(**PLAIN | {"first_guess": "last_frame"}),
    "first guess: the mean cycle alone": network(first_guess="cycle"),
    "told nothing of time and place": network(tells=(), embedding=0),
    "no averaging of weights": training(weight_averaging=0.0),
    "one-cycle schedule": training(schedule="one_cycle"),
    "divergence 0.01, sum": training(divergence_weight=0.01, divergence_reduction="sum"),
    "half the horizon a call, fitted through two calls": rolled(2),
}
VARIANTS = {
    "taxi": BOTH
    | {
        "no frames of the day before": network(lags=()),
        "frames of the week before as well": network(lags=("1D", "7D")),
        "mean of 3 networks": lambda preset: with_members(preset, 3),
        "history of 4 frames": lambda preset: replace(preset, history=4),
        "ends after an epoch without gain": training(patience=1),
        "divergence 0.1, mean, as published": training(divergence_weight=0.1),
        "no dropout": network(drop=0.0),
        "twice the widths": network(hidden_spatial=16, hidden_temporal=64),
    },
    "air": BOTH
    | {
        "not told where the sun stands": network(tells=("calendar", "places")),
        "cells weighted alike": training(area_weighted=False),
        "6 frames a call": at_once(6),
        "4 frames a call": at_once(4),
        "3 frames a call": at_once(3),
        "2 frames a call": at_once(2),
        "4 frames a call, fitted through two calls": lambda preset: training(rollout_steps=2)(at_once(4)(preset)),
        "early lead times count as much as late ones": training(lead_weighted=True),
        "the same, 6 frames a call": lambda preset: training(lead_weighted=True)(at_once(6)(preset)),
        "mean of 2 networks": lambda preset: with_members(preset, 2),
    },
}
REFERENCES = ("damped_anomaly_persistence", "lagged_regression")

WITHOUT_ROW = """
## What has no row

- **Circular padding**: neither series goes round the globe, so it is off in both; the test suite shows that a circular
  network turns with the globe.
- **Frames alone**: without a first guess, or with the last frame for one, there can be neither earlier frames nor an
  embedding, and as published there is no dropout, so these two rows change more than one thing.
- **Static fields**: neither series comes with any. "Told nothing of time and place" takes calendar, sun, latitude and
  longitude away together, on the city's flows the calendar and the learnt planes.
- **Area weighting** is nothing on the city's grid, whose cells count alike.
- **The sun** is told on geographic grids in UTC only.
- **Early stopping** has no row on the air temperature: the weights of the best epoch are kept in every row, so that
  stopping earlier can only save time.
"""


def main() -> None:
    """Fit every variant of one series, or of both, and write the page; what was fitted before is taken up.

    `make clean` forgets it.
    """
    data = Path(os.environ.get("STFORECAST_DATA") or ".")
    paths = {"taxi": data / "taxinyc" / "NYC16_M16x12_T30_InOut.h5", "air": data / "ncep_air"}
    for path in paths.values():
        if not path.exists():
            sys.exit(f"{path} is not there; set STFORECAST_DATA to the folder of the real series (data/README.md)")
    opening: dict[str, dict[str, Any]] = {"taxi": {"bounds": NEW_YORK, "time_zone": "America/New_York"}, "air": {}}
    named = sys.argv[1:] or list(paths)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in named:
        fit_variants(name, stf.open_dataset(paths[name], **opening[name]))
    PAGE.write_text(page())


def fit_variants(name: str, raw: xr.Dataset) -> None:
    """Fit and score the variants of a series, each into a file of its own, unless that is there."""
    store = FOLDER / f"{name}.zarr"
    split = stf.Split.by_fraction(raw["time"].to_numpy())
    series = stf.prepare(raw, store, split, overwrite=True).load()
    preset = base_of(name)
    leads = preset.horizon
    # Every variant is scored from the same times, also those that see fewer frames.
    inits = init_times(series, history=preset.history, leads=leads)
    step = series["time"].diff("time").to_numpy()[0] / np.timedelta64(1, "h")
    always = {"leads": [float(step * lead) for lead in LEADS[name]], "init times": len(inits)}
    for said, fitted in references(series, leads).items():
        errors = error_of(fitted.predict(series, init_times=inits, horizon=leads), series)
        write(name, said, always | {"errors": errors.tolist()})
    for said, change in VARIANTS[name].items():
        chosen = change(preset)
        asked = {"preset": json.loads(json.dumps(asdict(chosen))), "torch": version("torch")}
        if (found := read(name, said)) and found["asked"] == asked:
            continue
        started = time.monotonic()
        forecaster = stf.fit(
            store, history=chosen.history, horizon=chosen.horizon, network=chosen.network, training=chosen.training
        )
        errors = error_of(forecaster.predict(series, init_times=inits, horizon=leads), series)
        record = forecaster.training
        row = {
            "errors": errors.tolist(),
            "asked": asked,
            "best epoch": record["best_epoch"] + 1,
            "epochs": len(record["validation_loss"]),
            "parameters": sum(weights.numel() for weights in forecaster.network.parameters()),
            "minutes": (time.monotonic() - started) / 60,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        write(name, said, always | row)
        PAGE.write_text(page())
        print(name, said, np.round(errors, 3), f"{row['minutes']:.1f} minutes", flush=True)


def base_of(name: str) -> stf.Preset:
    """What is changed: the preset with one member, so that a row takes minutes, in one call, of unweighted leads."""
    return training(lead_weighted=False)(at_once(None)(with_members(stf.preset_of(PRESETS[name]), 1)))


def init_times(series: xr.Dataset, *, history: int, leads: int) -> np.ndarray:
    """The init times whose valid times all lie in the validation period."""
    times = series["time"].to_numpy()
    rows = stf.Split.from_attrs(series.attrs).part_rows(times, "validation")
    ends = np.arange(max(rows.start - 1, history - 1), rows.stop - leads)
    return np.asarray(times[ends])


def references(series: xr.Dataset, leads: int) -> dict[str, Any]:
    """What is fitted on the training part alone, by what it is called on the page."""
    split = stf.Split.from_attrs(series.attrs)
    train = series.isel(time=split.part_rows(series["time"].to_numpy(), "train"))
    fitted = stf.baselines.fit_references(REFERENCES, train, horizon=leads)
    robust = stf.baselines.LaggedRegression.fit(train, horizon=leads, robust=True)
    named = {one.replace("_", " "): reference for one, reference in fitted.items()}
    return named | {"the preset's first guess by itself": robust}


def error_of(forecast: xr.Dataset, series: xr.Dataset) -> np.ndarray:
    """The root mean square error by lead, of all variables together."""
    scores = stf.evaluate(forecast, series, reference=["persistence"]).sel(source="forecast", metric="rmse")
    return np.sqrt((scores**2).to_array().mean("variable")).to_numpy()


def pooled(row: Row) -> float:
    """The root mean square error over all leads."""
    return float(np.sqrt(np.square(row["errors"]).mean()))


def file_of(name: str, said: str) -> Path:
    """Where the figures of a variant are kept."""
    return FOLDER / f"{name} {re.sub('[^a-z0-9]+', '-', said)}.json"


def write(name: str, said: str, row: Row) -> None:
    """Keep the figures of a variant; a run that is cut takes up what is there."""
    part = file_of(name, said).with_suffix(".part")
    part.write_text(json.dumps(row))
    part.rename(file_of(name, said))


def read(name: str, said: str) -> Row:
    """The figures of a variant; nothing if it was not fitted."""
    path = file_of(name, said)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def page() -> str:
    """The page, of all that was fitted."""
    tables = [table(name) for name in PRESETS if read(name, BASE)]
    packages = ", ".join(f"{name} {version(name)}" for name in ("stforecast", "torch", "lightning"))
    return (
        "# What the parts of the presets are worth\n\n"
        "Written by `make ablation` (pipelines/ablation.py), which keeps each row's figures and takes them up when it "
        f"is called again. Python {platform.python_version()}, {packages}.\n\n"
        "Root mean square errors over the validation periods, in vehicles over both flows and in kelvin weighted by "
        "area. `one network, one call` is the preset with a single network that gives all lead times at once, their "
        "errors unweighted; each row below it changes one thing of that and keeps its size, windows, epochs and seed. "
        "One seed each: differences of about a percent are within what another seed may give. The validation period "
        "also chose the epoch, so these are no scores to report; docs/results.md has those. In the last but one column "
        "less than nothing means that the variant did better.\n" + "".join(tables) + WITHOUT_ROW
    )


def table(name: str) -> str:
    """The table of one series."""
    base = read(name, BASE)
    rows = {said: read(name, said) for said in [*references_said(), *VARIANTS[name]]}
    there = {said: row for said, row in rows.items() if row}
    absent = [said for said, row in rows.items() if not row]
    minutes = sum(row.get("minutes", 0.0) for row in there.values())
    lines = []
    for said, row in there.items():
        by_lead = " | ".join(f"{row['errors'][lead - 1]:.3f}" for lead in LEADS[name])
        change = f"{100 * (pooled(row) / pooled(base) - 1):+.1f} %"
        lines.append(f"| {said} | {by_lead} | {pooled(row):.3f} | {change} | {epochs_of(row)} |")
    heads = " | ".join(f"{lead:g} h" for lead in base["leads"])
    return (
        f"\n## {name}, {base['init times']} init times\n\n"
        f"{minutes:.0f} minutes of fitting and scoring on {base['cores']} shared CPU cores.\n\n"
        f"| variant | {heads} | all leads | against one network, one call | best epoch |\n"
        f"|---|{'---:|' * (len(LEADS[name]) + 3)}\n" + "\n".join(lines) + "\n"
    ) + (f"\nNot fitted: {'; '.join(absent)}.\n" if absent else "")


def references_said() -> list[str]:
    """What the references are called on the page."""
    return [one.replace("_", " ") for one in REFERENCES] + ["the preset's first guess by itself"]


def epochs_of(row: Row) -> str:
    """The best epoch, and how many there were; nothing for what is not fitted by epochs."""
    return f"{row['best epoch']} of {row['epochs']}" if "epochs" in row else ""


if __name__ == "__main__":
    main()
