"""Two real series whole, scored against references: `make real` writes docs/results.md and the pictures."""

import os
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from whole_way import Outcome, Recipe, run

import stforecast as stf

FOLDER = Path("data/runs/real")
RESULTS = Path("docs/results.md")
IMAGES = Path("docs/images")
NEW_YORK = (40.699031, 40.849878, -74.022216, -73.873868)

AIR = Recipe(
    name="air",
    history=8,
    horizon=8,
    leads=12,
    network=stf.NetworkConfig(hidden_spatial=16, hidden_temporal=96, temporal_layers=4, drop_path=0.1),
    training=stf.TrainingConfig(epochs=12, batch_size=16, learning_rate=1e-3),
    references=("persistence", "same_time_yesterday", "climatology", "damped_anomaly_persistence"),
)
TAXI = Recipe(
    name="taxi",
    history=8,
    horizon=4,
    leads=8,
    network=stf.NetworkConfig(hidden_spatial=16, hidden_temporal=96, temporal_layers=4, drop_path=0.1),
    training=stf.TrainingConfig(epochs=15, batch_size=16, learning_rate=1e-3),
    references=(
        "persistence",
        "same_time_yesterday",
        "same_time_last_week",
        "historical_average",
        "damped_anomaly_persistence",
    ),
)


def main() -> None:
    """Run both recipes, then write their tables and keep their pictures."""
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
    IMAGES.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        for picture in outcome.pictures:
            shutil.copy(picture, IMAGES / picture.name)
    console.print(f"wrote {RESULTS} and {IMAGES}")


def _report(outcomes: list[Outcome], minutes: float) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("stforecast", "torch", "lightning", "xarray", "scores"))
    head = (
        "# Results on real data\n\n"
        "Written by `make real` (pipelines/real.py): raw files to scores, every number of this page in one run of "
        f"{minutes:.0f} minutes on {os.cpu_count()} CPU cores, Python {platform.python_version()}, {packages}.\n\n"
        "Root mean square errors in physical units over the last 20 % of the frames; all init times whose "
        "valid times lie in that part. Area-weighted by true cell areas on the geographic grid, all cells alike on the "
        "city's; the root is taken after the mean; every column is scored on the same cells and times. Statistics and "
        "references are fitted on the first 70 %, the next 10 % chose the weights. A historical average of the taxi "
        "flows fitted on the first 80 % would score 16.01.\n"
    )
    return head + "".join(_section(outcome) for outcome in outcomes)


def _section(outcome: Outcome) -> str:
    forecaster, recipe, training = outcome.forecaster, outcome.recipe, outcome.forecaster.training
    parameters = sum(weights.numel() for weights in forecaster.network.parameters())
    return (
        f"\n## {recipe.name}\n\n"
        f"TAU with {parameters:,} parameters, {recipe.history} frames in, fitted on {recipe.horizon} frames out, "
        f"{recipe.training.epochs} epochs in {training['seconds']:.0f} s, best epoch {training['best_epoch'] + 1}, "
        f"seed {recipe.training.seed}; longer leads by a rollout. Split: train {'..'.join(forecaster.split.train)}, "
        f"validation {'..'.join(forecaster.split.validation)}, test {'..'.join(forecaster.split.test)}; "
        f"{outcome.scores.attrs['init_time_count']} init times verified.\n\n"
        f"{stf.score_table(_pooled(outcome.scores))}\n"
    )


def _pooled(scores: xr.Dataset) -> xr.Dataset:
    """Root mean square errors of each variable and, where there are several in one unit, of all together."""
    errors = scores.sel(metric=["rmse"])
    if len(errors.data_vars) == 1:
        return errors
    pooled = np.sqrt((errors**2).to_array().mean("variable"))
    return errors.assign({" and ".join(map(str, errors.data_vars)): pooled.assign_attrs(errors["inflow"].attrs)})


if __name__ == "__main__":
    main()
