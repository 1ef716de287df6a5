"""Two real series whole, scored against references: `make real` writes docs/results.md."""

import os
import platform
import shutil
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from whole_way import Outcome, Recipe, run

import stforecast as stf

FOLDER = Path("data/runs/real")
RESULTS = Path("docs/results.md")
NEW_YORK = (40.699031, 40.849878, -74.022216, -73.873868)

# The published network of the same widths: one that sees the frames and nothing else, and forecasts frames.
PLAIN = {"first_guess": "none", "lags": (), "embedding": 0, "drop": 0.0, "members": 1}


def recipe_of(name: str, preset: str, leads: int, references: tuple[str, ...]) -> Recipe:
    """The preset as it is, beside the published network of the same size."""
    chosen = stf.preset_of(preset)
    # As many frames out as in.
    published = replace(chosen.network, **PLAIN, frames_per_call=chosen.history)
    return Recipe(
        name=name,
        history=chosen.history,
        horizon=chosen.horizon,
        leads=leads,
        network=chosen.network,
        training=chosen.training,
        references=references,
        rivals={"published_network": (published, replace(chosen.training, lead_weighted=False))},
    )


AIR = recipe_of(
    "air",
    "weather",
    12,
    ("persistence", "climatology", "damped_anomaly_persistence", "lagged_regression"),
)
TAXI = recipe_of(
    "taxi",
    "traffic",
    8,
    ("persistence", "same_time_last_week", "historical_average", "damped_anomaly_persistence", "lagged_regression"),
)


def main() -> None:
    """Run both recipes, then write their tables; their pictures lie beside the stores and are not committed."""
    console = Console()
    data = Path(os.environ.get("STFORECAST_DATA") or ".")
    air, taxi = data / "ncep_air", data / "taxinyc" / "NYC16_M16x12_T30_InOut.h5"
    for path in (air, taxi):
        if not path.exists():
            sys.exit(f"{path} is not there; set STFORECAST_DATA to the folder of the real series (data/README.md)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    started = time.monotonic()
    outcomes = [
        run(stf.open_dataset(taxi, bounds=NEW_YORK, time_zone="America/New_York"), TAXI, FOLDER, console),
        run(stf.open_dataset(air), AIR, FOLDER, console),
    ]
    minutes = (time.monotonic() - started) / 60
    RESULTS.write_text(_report(outcomes, minutes))
    console.print(f"wrote {RESULTS}; pictures are in {FOLDER}")


def _report(outcomes: list[Outcome], minutes: float) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("stforecast", "torch", "lightning", "xarray", "scores"))
    head = (
        "# Results on real data\n\n"
        "Written by `make real` (pipelines/real.py): raw files to scores, every number of this page in one run of "
        f"{minutes:.0f} minutes on {os.cpu_count()} CPU cores, Python {platform.python_version()}, {packages}.\n\n"
        "Root mean square errors in physical units over the last 20 % of the frames; all init times whose valid "
        "times lie in that part. Area-weighted by true cell areas on the geographic grid, all cells alike on the "
        "city's; the root is taken after the mean; every column is scored on the same cells and times. Statistics "
        "and references are fitted on the first 70 %, the next 10 % chose the weights. `published_network` is one "
        "TAU of the same widths, fitted alike, that sees frames and forecasts as many, which it sees in turn; it is "
        "small and sees few windows here, so it says nothing of what the published one can do on decades of data. On "
        "13 March 2016, the first day of the taxi flows' test period, the clock of New York skips an hour, for which "
        "the file has zeros: the forecast knows that, the references do not, and it weighs heavily on their errors; "
        "a last table leaves those forecasts out. What each part of the presets is worth is in "
        "[ablation.md](ablation.md); the packaged models, of these and of a third series, have cards with confidence "
        "intervals of their skill in [stforecast/pretrained_models](../stforecast/pretrained_models), and the "
        "coverage of prediction intervals is in [intervals.md](intervals.md).\n"
    )
    return head + "".join(_section(outcome) for outcome in outcomes)


def _section(outcome: Outcome) -> str:
    forecaster, recipe, training = outcome.forecaster, outcome.recipe, outcome.forecaster.training
    parameters = sum(weights.numel() for weights in forecaster.network.parameters())
    return (
        f"\n## {recipe.name}\n\n"
        f"TAU with {parameters:,} parameters, {recipe.history} frames in, {recipe.horizon} frames out by "
        f"{forecaster.frames_per_call} a call, "
        f"{recipe.training.epochs} epochs in {training['seconds']:.0f} s, best epoch {training['best_epoch'] + 1}, "
        f"seed {recipe.training.seed}. Split: train {'..'.join(forecaster.split.train)}, "
        f"validation {'..'.join(forecaster.split.validation)}, test {'..'.join(forecaster.split.test)}; "
        f"{outcome.scores.attrs['init_time_count']} init times verified.\n\n"
        f"{stf.score_table(_pooled(outcome.scores))}\n{_without_skipped(outcome)}"
    )


def _without_skipped(outcome: Outcome) -> str:
    if outcome.without_skipped is None:
        return ""
    pooled = _pooled(outcome.without_skipped)
    together = pooled[[list(pooled.data_vars)[-1]]]
    return f"\nWithout the forecasts that begin in the skipped hour or reach it:\n\n{stf.score_table(together)}\n"


def _pooled(scores: xr.Dataset) -> xr.Dataset:
    """Root mean square errors of each variable and, where there are several in one unit, of all together."""
    errors = scores.sel(metric=["rmse"])
    if len(errors.data_vars) == 1:
        return errors
    pooled = np.sqrt((errors**2).to_array().mean("variable"))
    return errors.assign({" and ".join(map(str, errors.data_vars)): pooled.assign_attrs(errors["inflow"].attrs)})


if __name__ == "__main__":
    main()
