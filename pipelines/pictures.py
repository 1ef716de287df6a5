"""The pictures of the README and of the documentation: `make pictures`.

Of the packaged models on the real series: maps show the last forecast of the test period, whatever it is like, curves
and cards the scores of all of them. Of the tutorial what it draws when its code is run.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure
from pages import run
from pretrain import CONFIDENCE, ORIGINS, Origin
from rich.console import Console

import stforecast as stf
from stforecast.pretrained import packaged_model

IMAGES = Path("docs/images")
TUTORIAL = Path("docs/tutorials/first_forecast.md").absolute()
# How far ahead the maps are, a day or what is one for a city.
AHEAD = {"new-york-taxi": "2h", "north-america-air": "24h", "north-atlantic-pressure": "24h"}
# The kinds of pictures are the same for all models, so some are drawn of one only.
SHOWN = "north-america-air"


def main() -> None:
    """Forecast the test period of each real series with its packaged model, and draw."""
    console = Console()
    data = Path(os.environ.get("STFORECAST_DATA") or ".")
    absent = [origin.path for origin in ORIGINS.values() if not (data / origin.path).exists()]
    if absent:
        sys.exit(f"{data} has no {absent[0]}; set STFORECAST_DATA to the folder of the real series (data/README.md)")
    started = time.monotonic()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, origin in ORIGINS.items():
        series = stf.open_dataset(data / origin.path, **origin.options).load()
        for kind, draw in pictures_of(name, origin, series):
            console.print(save(draw(), f"{name}_{kind}"))
        if name == SHOWN:
            console.print(stf.plot.animation(last_forecast(name, series), IMAGES / f"{name}.gif", truth=series))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shown = run(TUTORIAL)
        drawn = stf.plot.comparison(shown["forecast"], shown["series"], lead_time="24h")
    console.print(save(drawn, "tutorial_map"))
    console.print(save(stf.plot.skill_curve(shown["scores"]), "tutorial_skill"))
    console.print(f"in {time.monotonic() - started:.0f} s")


def save(figure: Figure, name: str) -> Path:
    """The path of a picture; it is committed, so it has fewer points than stforecast.plot.save gives it."""
    path = IMAGES / f"{name}.png"
    figure.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.15)
    return path


def pictures_of(name: str, origin: Origin, series: xr.Dataset) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The pictures of one model, by their kinds."""
    forecaster = packaged_model(name)
    training = series.sel(time=slice(*forecaster.split.train))
    last, ahead = last_forecast(name, series), AHEAD[name]
    yield "comparison", lambda: stf.plot.comparison(last, series, lead_time=ahead)
    scores = stf.evaluate(
        forecaster.backtest(series), series, reference=origin.references, training=training, confidence=CONFIDENCE
    )
    yield "skill", lambda: stf.plot.skill_curve(scores)
    if name == SHOWN:
        yield "anomaly", lambda: stf.plot.anomaly(last, training, lead_time=ahead)
        yield "interval", lambda: stf.plot.interval(last, lead_time=ahead)
        card = stf.verification.score_card(scores, reference="lagged_regression")
        yield "score_card", lambda: stf.plot.score_card(card)


def last_forecast(name: str, series: xr.Dataset) -> xr.Dataset:
    """The last forecast that the test period has all truth for, with bounds between which 90 % of truth is to lie."""
    forecaster = packaged_model(name)
    return forecaster.predict(series, init_times=forecaster.init_times(series, part="test")[-1:], interval=0.9)


if __name__ == "__main__":
    main()
