"""A whole forecast on generated data, for the weather and for a city: `make demo`."""

import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from whole_way import Recipe, run

import stforecast as stf

FOLDER = Path("data/demo")
# Small networks and few epochs: this shows the way from raw files to scored maps within minutes on two cores, not how
# good forecasts can be.
NETWORK = stf.NetworkConfig(hidden_spatial=16, hidden_temporal=64, spatial_layers=4, temporal_layers=3, drop_path=0.0)
TRAINING = stf.TrainingConfig(epochs=2, batch_size=16, learning_rate=2e-3)
WEATHER = Recipe(
    name="weather",
    history=4,
    horizon=4,
    leads=8,
    network=NETWORK,
    training=TRAINING,
    every=4,
)
# In an epoch a network does not learn what a city's week is; the preset's knows it from its first guess.
CITY = stf.preset_of("traffic")
TRAFFIC = Recipe(
    name="traffic",
    history=4,
    horizon=8,
    leads=8,
    network=replace(CITY.network, hidden_spatial=8, hidden_temporal=32, temporal_layers=3),
    training=replace(CITY.training, epochs=1, learning_rate=2e-3),
    references=("persistence", "same_time_yesterday", "same_time_last_week", "historical_average"),
    allow_gaps=True,
    every=4,
)


def main() -> None:
    """Sample, prepare, fit, forecast, verify and draw, twice; then say what there is to look at."""
    console = Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for kind in ("weather", "traffic"):
        paths = stf.write_sample(kind, FOLDER / "raw" / kind)
        console.print(f"generated {len(paths)} files in the {kind} provider's layout under {FOLDER / 'raw' / kind}")
    outcomes = [
        run(stf.open_dataset(FOLDER / "raw" / "weather", variables=["t2m"]), WEATHER, FOLDER, console),
        run(stf.open_dataset(FOLDER / "raw" / "traffic"), TRAFFIC, FOLDER, console),
    ]
    console.rule("scores on the test period (generated data)")
    for outcome in outcomes:
        print(stf.score_table(outcome.scores), end="\n\n")
    console.rule("pictures")
    for outcome in outcomes:
        for picture in outcome.pictures:
            print(picture)


if __name__ == "__main__":
    main()
