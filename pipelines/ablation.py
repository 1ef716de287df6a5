"""What each part of the presets is worth on real data: `make ablation` writes docs/ablation.md.

Everything is judged on the validation periods, which also chose the presets; the test periods are docs/results.md's.
"""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from real import NEW_YORK, PLAIN

import stforecast as stf

FOLDER = Path("data/runs/ablation")
PAGE = Path("docs/ablation.md")
LEADS = {"taxi": (1, 4, 8), "air": (1, 2, 4, 12)}

Change = Callable[[stf.Preset], stf.Preset]


def network(**options: object) -> Change:
    """A preset with another network."""
    return lambda preset: replace(preset, network=replace(preset.network, **options))


def training(**options: object) -> Change:
    """A preset that is fitted otherwise."""
    return lambda preset: replace(preset, training=replace(preset.training, **options))


def rolled(steps: int) -> Change:
    """A preset that gives a part of its horizon a call, fitted on its own output for the rest."""
    return lambda preset: training(rollout_steps=steps)(replace(preset, horizon=preset.horizon // steps))


LAST_FRAME = PLAIN | {"first_guess": "last_frame"}

BOTH: dict[str, Change] = {
    "the preset": lambda preset: preset,
    "first guess: the last frame": network(**LAST_FRAME),
    "no averaging of weights": training(weight_averaging=0.0),
}
VARIANTS = {
    "taxi": BOTH
    | {
        "first guess: none, as published": network(**PLAIN),
        "two calls of half the horizon (rollout training)": rolled(2),
        "one-cycle schedule": training(schedule="one_cycle"),
        "frames of the week before as well": network(lags=("1D", "7D")),
        "history of 4 frames": lambda preset: replace(preset, history=4),
        "divergence 0.01, sum": training(divergence_weight=0.01, divergence_reduction="sum"),
        "no frames of the day before": network(lags=()),
        "no embedding": network(embedding=0),
        "no dropout": network(drop=0.0),
        "twice the widths": network(hidden_spatial=16, hidden_temporal=64),
    },
    "air": BOTH | {"cells weighted alike": training(area_weighted=False)},
}
REFERENCES = ("damped_anomaly_persistence", "lagged_regression")


def main() -> None:
    """Fit every variant of one series, or of both, and write the page."""
    data = Path(os.environ.get("STFORECAST_DATA") or ".")
    paths = {"taxi": data / "taxinyc" / "NYC16_M16x12_T30_InOut.h5", "air": data / "ncep_air"}
    for path in paths.values():
        if not path.exists():
            sys.exit(f"{path} is not there; set STFORECAST_DATA to the folder of the real series (data/README.md)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    started = time.monotonic()
    ways = {
        "taxi": ("traffic", {"bounds": NEW_YORK, "time_zone": "America/New_York"}),
        "air": ("weather", {}),
    }
    named = sys.argv[1:] or list(ways)
    sections = [section(name, stf.open_dataset(paths[name], **ways[name][1]), ways[name][0]) for name in named]
    minutes = (time.monotonic() - started) / 60
    packages = ", ".join(f"{name} {version(name)}" for name in ("stforecast", "torch", "lightning"))
    PAGE.write_text(
        "# What the parts of the presets are worth\n\n"
        f"Written by `python pipelines/ablation.py {' '.join(named)}` in {minutes:.0f} minutes on {os.cpu_count()} CPU "
        f"cores, Python {platform.python_version()}, {packages}.\n\n"
        "Root mean square errors over the validation periods, in vehicles over both flows and in kelvin weighted by "
        "area. Each row changes one thing of the preset and keeps its size, windows, epochs and seed. One seed each: "
        "differences below a percent are within what another seed may give. The validation period also chose the "
        "epoch, so these are no scores to report; docs/results.md has those.\n" + "".join(sections)
    )


def section(name: str, raw: xr.Dataset, preset: str) -> str:
    """The table of one series."""
    store = FOLDER / f"{name}.zarr"
    series = stf.prepare(raw, store, stf.Split.by_fraction(raw["time"].to_numpy())).load()
    leads, rows, inits = stf.preset_of(preset).horizon, [], None
    for said, change in VARIANTS[name].items():
        chosen = change(stf.preset_of(preset))
        forecaster = stf.fit(
            store, history=chosen.history, horizon=chosen.horizon, network=chosen.network, training=chosen.training
        )
        if inits is None:
            inits = forecaster.init_times(series, part="validation", horizon=leads)
            rows += [(one, errors) for one, errors in references(series, inits, leads).items()]
        errors = error_of(forecaster.predict(series, init_times=inits, horizon=leads), series)
        rows.append((said, errors))
        best = forecaster.training["best_epoch"] + 1
        print(name, said, np.round(errors, 3), f"epoch {best}, {forecaster.training['seconds']:.0f} s", flush=True)
    step = series["time"].diff("time").to_numpy()[0] / np.timedelta64(1, "h")
    heads = [f"{lead * step:g} h" for lead in LEADS[name]]
    preset_mean = pooled(dict(rows)["the preset"])
    lines = [
        f"| {said} | {' | '.join(f'{errors[lead - 1]:.3f}' for lead in LEADS[name])} | {pooled(errors):.3f} | "
        f"{100 * (pooled(errors) / preset_mean - 1):+.1f} % |"
        for said, errors in rows
    ]
    return (
        f"\n## {name}, {len(inits if inits is not None else ())} init times\n\n"
        f"| variant | {' | '.join(heads)} | all leads | against the preset |\n"
        f"|---|{'---:|' * (len(heads) + 2)}\n" + "\n".join(lines) + "\n"
    )


def references(series: xr.Dataset, inits: np.ndarray, leads: int) -> dict[str, np.ndarray]:
    """The errors of what is fitted on the training part alone."""
    split = stf.Split.from_attrs(series.attrs)
    train = series.isel(time=split.part_rows(series["time"].to_numpy(), "train"))
    fitted = stf.baselines.fit_references(REFERENCES, train, horizon=leads)
    robust = stf.baselines.LaggedRegression.fit(train, horizon=leads, robust=True)
    fitted["the preset's first guess by itself"] = robust
    return {
        one.replace("_", " "): error_of(reference.predict(series, init_times=inits, horizon=leads), series)
        for one, reference in fitted.items()
    }


def error_of(forecast: xr.Dataset, series: xr.Dataset) -> np.ndarray:
    """The root mean square error by lead, of all variables together."""
    scores = stf.evaluate(forecast, series, reference=["persistence"]).sel(source="forecast", metric="rmse")
    return np.sqrt((scores**2).to_array().mean("variable")).to_numpy()


def pooled(errors: np.ndarray) -> float:
    """The root mean square error over all leads."""
    return float(np.sqrt(np.square(errors).mean()))


if __name__ == "__main__":
    main()
