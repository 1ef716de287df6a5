"""The command line: verbs that each call one public function."""

import faulthandler
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
import xarray as xr
from rich.console import Console

import stforecast as stf
from stforecast.configuration import parse_duration
from stforecast.errors import ErrorKind, StforecastError, without_credentials
from stforecast.files import check_writable
from stforecast.grid import Grid, times_of
from stforecast.sources.selection import period_bounds
from stforecast.split import PARTS, Split, parse_period
from stforecast.store import is_store
from stforecast.time_axis import show_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stforecast.operations.journal import Outcome
    from stforecast.operations.pipeline import Pipeline

app = typer.Typer(
    help="Weather and traffic forecasting on xarray: from raw files to stores, models, forecasts, scores and maps.",
    epilog="A first forecast: stforecast sample weather raw; stforecast prepare raw t2m.zarr --variable t2m; "
    "stforecast fit t2m.zarr model; stforecast predict model t2m.zarr forecast.nc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


PICTURES = (".png", ".pdf", ".svg")
FILMS = (".gif", ".mp4")


class SampleKind(StrEnum):
    """What can be generated."""

    WEATHER = "weather"
    TRAFFIC = "traffic"


class NanChoice(StrEnum):
    """What to do with frames that have NaN."""

    REFUSE = "refuse"
    DROP = "drop"


class RegridChoice(StrEnum):
    """How to come to another grid."""

    LINEAR = "linear"
    CONSERVATIVE = "conservative"


class PresetChoice(StrEnum):
    """The kind of data."""

    WEATHER = "weather"
    TRAFFIC = "traffic"


class RefuseChoice(StrEnum):
    """Which forecasts are refused."""

    NOTHING = "nothing"
    IMPOSSIBLE = "impossible"
    DRIFT = "drift"


class BackendChoice(StrEnum):
    """What computes a network."""

    EAGER = "eager"
    FOLDED = "folded"
    OPENVINO = "openvino"
    ONNX = "onnx"
    INT8 = "int8"


class GroupChoice(StrEnum):
    """What valid times are told apart by."""

    SEASON = "season"
    HOUR = "hour"


class PictureKind(StrEnum):
    """What a picture shows."""

    MAP = "map"
    COMPARISON = "comparison"
    PANELS = "panels"
    ANOMALY = "anomaly"
    INTERVAL = "interval"


class Part(StrEnum):
    """The parts of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


StorePath = Annotated[Path, typer.Argument(help="A store that `stforecast prepare` made.")]
DataPath = Annotated[str, typer.Argument(help="A prepared store, or raw data as `stforecast prepare` takes them.")]
SourceName = Annotated[
    str | None,
    typer.Option(help="The layout: weatherbench, weatherbench2, taxibj, grib or cf. Told from the content by default."),
]
Variables = Annotated[
    list[str] | None, typer.Option("--variable", help="A variable to take; repeat for several. All by default.")
]


@app.command()
def sample(
    kind: Annotated[SampleKind, typer.Argument(help="weather: a WeatherBench tree; traffic: TaxiBJ files.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write into.")],
    seed: Annotated[int, typer.Option(help="What the data are generated from.")] = 0,
) -> None:
    """Write generated raw data in a provider's own layout, to try things on."""
    for path in stf.write_sample(kind.value, folder, seed=seed):
        typer.echo(path)
    if kind is SampleKind.TRAFFIC:
        typer.echo("slots are absent here, as in TaxiBJ: prepare these with --allow-gaps", err=True)


@app.command()
def prepare(
    raw: Annotated[str, typer.Argument(help="A file, a quoted glob, a folder of files, or a zarr store.")],
    store: Annotated[Path, typer.Argument(help="The store to make, e.g. t2m.zarr.")],
    variable: Variables = None,
    level: Annotated[list[float] | None, typer.Option(help="A level to take; repeat for several.")] = None,
    source: SourceName = None,
    static: Annotated[
        list[str] | None,
        typer.Option(help="A field without a time to keep beside, e.g. orography; repeat for several."),
    ] = None,
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Keep the cells between south, north, west and east edge, in degrees."),
    ] = None,
    coarsen: Annotated[
        int | None, typer.Option(help="Make so many rows and columns one, by area-weighted means.")
    ] = None,
    step: Annotated[str | None, typer.Option(help="A longer step, e.g. 6h; says how with --resample.")] = None,
    resample: Annotated[str | None, typer.Option(help="With --step: instant, mean or sum.")] = None,
    drop_partial: Annotated[
        bool, typer.Option("--drop-partial", help="With --resample: leave out means and sums with frames absent.")
    ] = False,
    like: Annotated[
        str | None, typer.Option(help="Put it on the grid of this store or raw data, inside the series' own.")
    ] = None,
    regrid: Annotated[
        RegridChoice, typer.Option(help="With --like: linear, or conservative for a coarser grid.")
    ] = RegridChoice.LINEAR,
    latitude: Annotated[str | None, typer.Option(help="Order the rows: ascending or descending.")] = None,
    longitude: Annotated[str | None, typer.Option(help="Order the columns: 0..360 or -180..180.")] = None,
    period: Annotated[str | None, typer.Option(help="The period to take, e.g. 1979..2018; all by default.")] = None,
    train: Annotated[str | None, typer.Option(help="The period to train on, e.g. 1979..2015.")] = None,
    validation: Annotated[str | None, typer.Option(help="The period that chooses the weights, e.g. 2016.")] = None,
    test: Annotated[str | None, typer.Option(help="The period to report scores on, e.g. 2017..2018.")] = None,
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="South, north, west and east edge of a city grid, in degrees."),
    ] = None,
    time_zone: Annotated[str | None, typer.Option(help="The zone of local times, e.g. America/New_York.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="z-score, min-max, log1p or tendency; or VARIABLE=METHOD, repeated. z-score by default."),
    ] = None,
    allow_preliminary: Annotated[
        bool,
        typer.Option("--allow-preliminary", help="Declare that ERA5's preliminary frames may stand among final ones."),
    ] = False,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Declare that frames may be absent.")] = False,
    nan: Annotated[NanChoice, typer.Option(help="Frames with NaN: refuse the data, or drop them.")] = NanChoice.REFUSE,
    part: Annotated[
        str | None,
        typer.Option("--parts", help="Build only share I/N, e.g. 2/8; publish with a last call without this option."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
) -> None:
    """Turn raw data into a normalized store. Without periods: 70 % to train, 10 % to validate, 20 % to test."""
    series = stf.open_dataset(
        raw,
        source=source,
        variables=variable,
        levels=level,
        static=static or (),
        period=parse_period(period) if period else None,
        bounds=bounds,
        time_zone=time_zone,
        allow_preliminary=allow_preliminary,
    )
    choices: dict[str, Any] = {"region": region, "coarsen": coarsen, "step": step, "resample": resample}
    choices |= {"latitude": latitude, "longitude": longitude, "like": Grid.of(_open(like, None)) if like else None}
    if any(choice is not None for choice in choices.values()):
        series = stf.harmonise(
            series,
            drop_partial=drop_partial,
            regrid="conservative" if regrid is RegridChoice.CONSERVATIVE else "linear",
            **choices,
        )
    with _unwound():
        opened = stf.prepare(
            series,
            store,
            _split(series, train, validation, test),
            method=_methods(method or ["z-score"]),
            allow_gaps=allow_gaps,
            nan="drop" if nan is NanChoice.DROP else "refuse",
            part=_part(part),
            overwrite=overwrite,
            progress=True,
        )
    done = f"part {part} of {store} is built" if part else str(store)
    typer.echo(f"{done}: {', '.join(map(str, opened.data_vars))}, {dict(opened.sizes)}")


def _methods(given: list[str]) -> str | dict[str, str]:
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [one.partition("=") for one in given]
    if not all(equals for _, equals, _ in pairs):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"--method wants one method, or VARIABLE=METHOD for each, not {' '.join(given)}"
        )
    return {name: method for name, _, method in pairs}


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, total = text.partition("/")
    if not (slash and number.isdigit() and total.isdigit()):
        raise StforecastError(ErrorKind.ARGUMENT, f"--parts wants I/N, e.g. 2/8, not {text!r}")
    return int(number), int(total)


def _split(series: xr.Dataset, *periods: str | None) -> Split:
    given = [parse_period(period) for period in periods if period is not None]
    if not given:
        return Split.by_fraction(series["time"].to_numpy())
    if len(given) < len(PARTS):
        raise StforecastError(
            ErrorKind.ARGUMENT, "a split needs all of --train, --validation and --test, or none for 70/10/20"
        )
    return Split(*given)


@app.command()
def append(
    raw: Annotated[str, typer.Argument(help="The new frames: a file, a quoted glob, a folder, or a zarr store.")],
    store: StorePath,
    source: SourceName = None,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Declare that frames may be absent.")] = False,
    allow_late: Annotated[bool, typer.Option("--allow-late", help="Declare that frames may go into a gap.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let other values take the place of those there.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Take the statistics anew and make the store anew.")] = False,
) -> None:
    """Put new frames into a store; the same frames again change nothing."""
    step = np.timedelta64(stf.open_store(store).attrs["step_seconds"], "s")
    series = stf.open_dataset(raw, source=source, step=step)
    with _unwound():
        typer.echo(
            stf.append(series, store, allow_gaps=allow_gaps, allow_late=allow_late, replace=replace, refit=refit)
        )


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Raw data as `stforecast prepare` takes them, or a store.")],
    variable: Variables = None,
    level: Annotated[list[float] | None, typer.Option(help="A level to look at; repeat for several.")] = None,
    period: Annotated[str | None, typer.Option(help="The period to look at, e.g. 2016..2018.")] = None,
    source: SourceName = None,
    time_zone: Annotated[str | None, typer.Option(help="The zone of local times, e.g. America/New_York.")] = None,
    scan: Annotated[
        bool | None, typer.Option(help="Read every value, for ranges and NaN; by default where the data lie here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is in a file, a folder or a store, and what would stop `stforecast prepare`."""
    found = stf.inspect(
        path,
        source=source,
        variables=variable,
        levels=level,
        period=parse_period(period) if period else None,
        time_zone=time_zone,
        scan=scan,
    )
    typer.echo(json.dumps(_without_nan(found.to_dict()), default=str) if as_json else found)
    if found.faults:
        raise typer.Exit(found.faults[0].kind.exit_status)


@app.command()
def validate(store: StorePath) -> None:
    """Check every file of a store by its checksum, its metadata, axes, values and statistics."""
    found = stf.validate(store)
    typer.echo(found)
    if not found.is_sound:
        raise typer.Exit(found.faults[0][0].exit_status)


@app.command()
def fit(
    store: StorePath,
    model: Annotated[Path, typer.Argument(help="The folder to save the fitted model in.")],
    preset: Annotated[
        PresetChoice | None, typer.Option(help="What did best on such data; the options below change parts of it.")
    ] = None,
    history: Annotated[int | None, typer.Option(help="Frames that the network sees; 12 without a preset.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Frames that it learns to forecast; 12 without a preset.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training windows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest rate of the schedule.")] = None,
    hidden_spatial: Annotated[int | None, typer.Option(help="Channels of encoder and decoder.")] = None,
    hidden_temporal: Annotated[int | None, typer.Option(help="Channels of the translator.")] = None,
    temporal_layers: Annotated[int | None, typer.Option(help="Blocks of the translator.")] = None,
    seed: Annotated[int | None, typer.Option(help="What initial weights and the order of windows follow from.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A folder for checkpoints, losses and their curve; a fit that ended there is gone on with."),
    ] = None,
) -> None:
    """Fit a TAU on the training period of a store; the validation period chooses the weights."""
    if model.exists():
        raise StforecastError(ErrorKind.OUTPUT_EXISTS, f"{model} is there already; choose another folder or remove it")
    _check_output(model)
    chosen = None if preset is None else stf.preset_of(preset.value)
    network = stf.NetworkConfig() if chosen is None else chosen.network
    training = stf.TrainingConfig() if chosen is None else chosen.training
    sizes = {"hidden_spatial": hidden_spatial, "hidden_temporal": hidden_temporal, "temporal_layers": temporal_layers}
    ways = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    forecaster = stf.fit(
        store,
        preset=None if preset is None else preset.value,
        history=history,
        horizon=horizon,
        network=replace(network, **_given(sizes)),
        training=replace(training, **_given(ways)),
        run=run,
        progress=True,
    )
    forecaster.save(model)
    record = forecaster.training
    best = record["best_epoch"]
    typer.echo(
        f"{model}: best epoch {best + 1} of {len(record['validation_loss'])}, validation loss "
        f"{record['validation_loss'][best]:.4g} (mean square, normalized), {record['seconds']:g} s"
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(help="The folder of a fitted model, the name of a packaged one, or auto for the one that fits."),
    ],
    data: DataPath,
    output: Annotated[Path, typer.Argument(help="What to write, e.g. forecast.nc or forecast.zarr.")],
    init: Annotated[
        list[str] | None, typer.Option(help="The last frame to see, e.g. 2018-06-01T12; repeat for several.")
    ] = None,
    part: Annotated[
        Part | None, typer.Option(help="Forecast all that is valid in this part of the model's split.")
    ] = None,
    every: Annotated[int, typer.Option(help="With --part: only from every so many frames.", min=1)] = 1,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast; as fitted by default.")] = None,
    backend: Annotated[
        BackendChoice | None, typer.Option(help="What computes the network; by default what repays its preparation.")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="Bounds between which this share of truth is to lie, e.g. 0.9.")
    ] = None,
    refuse: Annotated[
        RefuseChoice, typer.Option(help="Which forecasts are refused; what is not is flagged.")
    ] = RefuseChoice.IMPOSSIBLE,
    source: SourceName = None,
) -> None:
    """Forecast from the last frames of the data, or from the init times that are named.

    What was interrupted is gone on with by the same command.
    """
    _check_output(output, ".nc", ".zarr")
    if part is not None and init:
        raise StforecastError(ErrorKind.ARGUMENT, "--init and --part exclude each other; give one of them")
    if part is None and every > 1:
        raise StforecastError(ErrorKind.ARGUMENT, "--every is of use only with --part")
    from stforecast.prediction import forecaster_for
    from stforecast.pretrained import load_model

    known = None if model == "auto" else load_model(model)
    series = _open(data, source)
    init_times: npt.ArrayLike | None = init
    forecaster = forecaster_for(series, known, init_times=init_times)
    if part is not None:
        init_times = forecaster.init_times(series, part=part.value, horizon=horizon)[::every]
    with _unwound():
        forecast = stf.predict(
            series,
            forecaster,
            init_times=init_times,
            horizon=horizon,
            output=output,
            backend=None if backend is None else backend.value,
            interval=interval,
            refuse=refuse.value,
            progress=True,
        )
    typer.echo(f"{output}: {', '.join(map(str, forecast.data_vars))}, {dict(forecast.sizes)}")


@app.command()
def models() -> None:
    """List the models that come with the package, and what each of them forecasts."""
    from stforecast.pretrained import packaged_model

    for name in stf.packaged_models():
        typer.echo(f"{name}: {packaged_model(name)}")


def _check_output(path: Path, *endings: str) -> None:
    """Refuse a path that cannot be written, before the work and not after it."""
    if endings and path.suffix not in endings:
        raise StforecastError(ErrorKind.ARGUMENT, f"{path} should end in {' or '.join(endings)}")
    check_writable(path.parent)


def _load_forecast(path: Path) -> xr.Dataset:
    if is_store(path):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{path} is a prepared store; a forecast is what stforecast predict writes"
        )
    try:
        return stf.open_forecast(path).load()
    except RuntimeError as error:
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is damaged ({error}); make the forecast anew") from error


def _open(data: str, source: str | None) -> xr.Dataset:
    return stf.open_store(data) if is_store(Path(data)) else stf.open_dataset(data, source=source)


@app.command()
def evaluate(
    forecast: Annotated[Path, typer.Argument(help="A forecast that `stforecast predict` wrote.")],
    store: StorePath,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with; repeat for several: persistence, climatology, damped_anomaly_persistence, "
            "historical_average, same_time_yesterday, same_time_last_week, lagged_regression."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric to print; repeat for several: rmse (the default), mae, bias, acc, mape:10, psnr:60, "
            "ssim:60, fss:300:3."
        ),
    ] = None,
    by: Annotated[
        list[GroupChoice] | None, typer.Option(help="Tell the scores of valid times apart; repeat for both.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="A region to score, as north=30:60,350:20 with its latitudes and longitudes; repeatable."),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Give intervals and skill, e.g. 0.95, by resampling blocks of init times.")
    ] = None,
    curve: Annotated[Path | None, typer.Option(help="Also draw the skill curve into this picture.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Also draw the score card against the first reference into this picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all scores as JSON instead of a table.")] = False,
) -> None:
    """Score a forecast by lead time against references that are fitted on the store's training period."""
    for picture in (curve, card):
        if picture is not None:
            _check_output(picture, *PICTURES)
    if curve is not None and (by or region):
        raise StforecastError(ErrorKind.ARGUMENT, "--curve is of all times and cells; leave --by and --region out")
    metrics = metric or ["rmse"]
    scores = stf.evaluate(
        _load_forecast(forecast),
        stf.open_store(store),
        reference=reference or ["persistence"],
        metrics=stf.verification.METRICS if set(metrics) <= set(stf.verification.METRICS) else metrics,
        by=[one.value for one in by or ()],
        regions=dict(_region(text) for text in region) if region else None,
        confidence=0.95 if confidence is None and card is not None else confidence,
    )
    typer.echo(_as_json(scores) if as_json else "\n\n".join(stf.score_table(scores, metric=one) for one in metrics))
    if curve is not None:
        stf.plot.save(stf.plot.skill_curve(scores, metric=metrics[0]), curve)
    if card is not None:
        stf.plot.save(stf.plot.score_card(stf.verification.score_card(scores, metric=metrics[0])), card)


def _region(text: str) -> tuple[str, tuple[slice, slice]]:
    """The name and the slices of a region that is written as north=30:60,350:20; an end may be left out."""
    name, _, box = text.partition("=")
    sides = [side.split(":") for side in box.split(",")]
    try:
        y, x = (slice(*(float(end) if end else None for end in ends)) for ends in sides if len(ends) == 2)
    except ValueError as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"--region wants NAME=SOUTH:NORTH,WEST:EAST, e.g. north=30:60,350:20, not {text!r}"
        ) from error
    return name, (y, x)


def _as_json(scores: xr.Dataset) -> str:
    """All scores as JSON: lead times in seconds, null where there is no score."""
    leads = scores["lead_time"].to_numpy() / np.timedelta64(1, "s")
    plain = scores.assign_coords(lead_time=leads.astype(int)).to_dict()
    return json.dumps(_without_nan(plain))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inside) for inside in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


@app.command()
def plot(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FORECAST [TRUTH] OUTPUT",
            help="A forecast that `stforecast predict` wrote; a prepared store or raw data, for what is drawn beside "
            "it; the picture to write, e.g. map.png (.pdf, .svg), or a film: .gif, .mp4.",
        ),
    ],
    kind: Annotated[
        PictureKind | None,
        typer.Option(
            help="map: the forecast; comparison: forecast, truth and error; panels: the forecast at several "
            "lead times; anomaly: how far it departs from the climatology of TRUTH's training period; interval: how "
            "wide its bounds are. By default a comparison with TRUTH and a map without."
        ),
    ] = None,
    variable: Annotated[str | None, typer.Option(help="The variable to draw; the first by default.")] = None,
    level: Annotated[float | None, typer.Option(help="The level to draw; the first by default.")] = None,
    init: Annotated[str | None, typer.Option(help="The init time to draw; the last by default.")] = None,
    lead: Annotated[
        list[str] | None,
        typer.Option(help="The lead time to draw, e.g. 24h; the last by default. Repeat for panels; six by default."),
    ] = None,
    winds: Annotated[
        bool, typer.Option("--winds", help="Draw arrows of the wind, where the forecast has u and v.")
    ] = False,
    projection: Annotated[
        str | None,
        typer.Option(help="A projection of cartopy with its centre, e.g. Robinson, Robinson:180, Orthographic:-30,40."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="Streets or water to draw over a city, a GeoJSON or a shapefile in degrees; repeat for several. "
            "new-york, which comes with the package, is drawn by default where it fits."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each lead time stands in a film.")] = 0.5,
    source: SourceName = None,
) -> None:
    """Draw a forecast on a map: a picture of one lead time, or a film of all, with TRUTH beside it if given."""
    forecast, truth, output = _plotted(paths)
    _check_output(output, *PICTURES, *FILMS)
    kind = kind or (PictureKind.MAP if truth is None else PictureKind.COMPARISON)
    _check_kind(kind, truth, output, lead or [], winds=winds)
    options: dict[str, Any] = {"variable": variable, "init_time": init, "level": level, "context": context or None}
    options |= {"projection": None if projection is None else _projection(projection)}
    options |= {"winds": True} if winds else {}
    loaded = _load_forecast(forecast)
    series = None if truth is None else _open(truth, source)
    with _drawn_in(projection):
        if output.suffix in FILMS:
            stf.plot.animation(loaded, output, truth=series, seconds_per_frame=seconds, progress=True, **options)
        elif kind is PictureKind.PANELS:
            stf.plot.save(stf.plot.panels(loaded, lead_times=lead or None, **options), output)
        else:
            options["lead_time"] = lead[0] if lead else None
            stf.plot.save(_picture(kind, loaded, series, options), output)
    typer.echo(output)


def _plotted(paths: list[str]) -> tuple[Path, str | None, Path]:
    """Forecast, truth and output of a picture."""
    if len(paths) not in (2, 3):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"plot wants FORECAST [TRUTH] OUTPUT, two or three paths, not {' '.join(paths)}"
        )
    return Path(paths[0]), paths[1] if len(paths) == 3 else None, Path(paths[-1])


def _check_kind(kind: PictureKind, truth: str | None, output: Path, lead: list[str], *, winds: bool) -> None:
    """Refuse what a kind of picture cannot have, before anything is read."""
    is_film = output.suffix in FILMS
    faults = {
        f"{output} shows all lead times; leave --lead out": is_film and bool(lead),
        f"a film shows a map or a comparison; write --kind {kind} as {', '.join(PICTURES)}": is_film
        and kind not in (PictureKind.MAP, PictureKind.COMPARISON),
        f"--kind {kind} wants TRUTH: stforecast plot FORECAST TRUTH {output}": truth is None
        and kind in (PictureKind.COMPARISON, PictureKind.ANOMALY),
        f"--kind {kind} is of the forecast alone; leave {truth} out": truth is not None
        and kind not in (PictureKind.COMPARISON, PictureKind.ANOMALY),
        f"--kind {kind} shows one lead time; give --lead once, or --kind panels": len(lead) > 1
        and kind is not PictureKind.PANELS,
        f"--winds are drawn over fields; leave them out with --kind {kind}": winds
        and kind in (PictureKind.ANOMALY, PictureKind.INTERVAL),
    }
    for words, is_so in faults.items():
        if is_so:
            raise StforecastError(ErrorKind.ARGUMENT, words)


def _picture(kind: PictureKind, forecast: xr.Dataset, truth: xr.Dataset | None, options: dict[str, Any]) -> "Figure":
    """The figure of one lead time."""
    if kind is PictureKind.MAP:
        return stf.plot.forecast_map(forecast, **options)
    if kind is PictureKind.INTERVAL:
        return stf.plot.interval(forecast, **options)
    assert truth is not None
    if kind is PictureKind.ANOMALY:
        return stf.plot.anomaly(forecast, _training_part(truth, forecast), **options)
    return stf.plot.comparison(forecast, truth, **options)


def _training_part(truth: xr.Dataset, forecast: xr.Dataset) -> xr.Dataset:
    """The frames that say what is normal: those of the store's training period, else of the model's."""
    attrs = next((some.attrs for some in (truth, forecast) if "split" in some.attrs), None)
    if attrs is None:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "neither TRUTH nor the forecast says which period is normal; give a store that stforecast prepare made",
        )
    return truth.isel(time=Split.from_attrs(attrs).part_rows(times_of(truth), "train"))


def _projection(text: str) -> Any:
    """The projection of cartopy that is written as Name, Name:LONGITUDE or Name:LONGITUDE,LATITUDE."""
    import inspect

    import cartopy.crs as ccrs

    known = {
        name.lower(): found
        for name, found in vars(ccrs).items()
        if inspect.isclass(found)
        and issubclass(found, ccrs.Projection)
        and "central_longitude" in inspect.signature(found).parameters
        and not found.__name__.startswith("_")
    }
    name, _, centre = text.partition(":")
    if name.lower() not in known:
        names = ", ".join(sorted(found.__name__ for found in known.values()))
        raise StforecastError(ErrorKind.ARGUMENT, f"there is no projection {name}; there are {names}")
    projection = known[name.lower()]
    has_latitude = "central_latitude" in inspect.signature(projection).parameters
    number = r"[+-]?\d+(?:\.\d*)?"
    if centre and not re.fullmatch(rf"{number}(?:,{number})?" if has_latitude else number, centre):
        example = f"{projection.__name__}:-30{',40' if has_latitude else ''}"
        raise StforecastError(ErrorKind.ARGUMENT, f"--projection wants a centre in degrees, e.g. {example}, not {text}")
    degrees = [float(part) for part in centre.split(",") if part]
    return projection(**dict(zip(("central_longitude", "central_latitude"), degrees, strict=False)))


@contextmanager
def _drawn_in(projection: str | None) -> Iterator[None]:
    """Says that a projection does not suit, where cartopy fails in one that was asked for."""
    try:
        yield
    except (StforecastError, OSError):
        raise
    except Exception as error:
        if projection is None:
            raise
        raise StforecastError(
            ErrorKind.ARGUMENT, f"this domain cannot be drawn in {projection} ({error}); choose another projection"
        ) from error


PipelineFile = Annotated[Path, typer.Argument(help="The YAML file of a pipeline; docs/operations.md has its keys.")]


@app.command()
def run(
    pipeline: PipelineFile,
    init: Annotated[
        str | None, typer.Option(help="The init time; the newest whose input should be there by default.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(help="How long to wait for late input, e.g. 45m.")] = None,
    backfill: Annotated[
        str | None, typer.Option(help="Make all init times A..B that are not published, oldest first.")
    ] = None,
    catch_up: Annotated[
        int | None, typer.Option(help="Make those of the last so many init times that are not published.", min=1)
    ] = None,
    only: Annotated[str | None, typer.Option(help="With a matrix: the name of the one pipeline to run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make an init time anew that is published.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Do the work on data on a dask.distributed cluster, e.g. tcp://host:8786.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON, one a line.")] = False,
) -> None:
    """Find new input, put it into the store, forecast, check, publish, draw, score what has come true, clean up.

    Ends with 0 if the forecast is published or was already, 7 if by a fallback, 75 if input is late, 9 if another run
    is active, and otherwise with the status of what stopped it; docs/operations.md has them all.
    """
    if sum(given is not None for given in (init, backfill, catch_up)) > 1:
        raise StforecastError(ErrorKind.ARGUMENT, "--init, --backfill and --catch-up exclude each other; give one")
    if force and init is None:
        raise StforecastError(ErrorKind.ARGUMENT, "--force makes one init time anew; name it with --init")
    chosen = _chosen_pipelines(pipeline, only)
    wait = None if deadline is None else parse_duration(deadline, name="--deadline")
    statuses: list[int] = []
    begun = time.monotonic()
    with _on_cluster(scheduler), _unwound():
        for one in chosen:
            left = _left(one.deadline if wait is None else wait, time.monotonic() - begun)
            outcomes = _outcomes(one, init, backfill, catch_up, force=force, wait=left, dry_run=dry_run)
            statuses.extend(_tell(outcome, as_json=as_json) for outcome in outcomes)
    raise typer.Exit(_worst(statuses))


@app.command()
def schedule(
    pipelines: Annotated[list[Path], typer.Argument(help="The YAML files of pipelines.")],
    at_once: Annotated[
        int | None, typer.Option(help="How many pipelines run at the same time; as many as there are cores.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is outstanding and the next starts, and do nothing.")
    ] = False,
) -> None:
    """Run pipelines by the clock, each when another init time is due, until SIGTERM or Ctrl-C ends it.

    Each run is a process of its own, `stforecast run --init T`. Cycles that were missed, while the machine slept say,
    are made up for, as many as the pipeline's catch_up says. One whose input is late is tried again. Where a pipeline
    has `retrain`, `stforecast retrain --if-due` runs beside its forecasts.
    """
    from stforecast.operations import scheduling
    from stforecast.operations.cycles import Clock

    scheduled = scheduling.read_scheduled(pipelines)
    now = Clock().now()
    for one in scheduled:
        name, outstanding = one.pipeline.name, [show_time(init) for init in one.outstanding(now)]
        typer.echo(f"{name}: to make now: {', '.join(outstanding) or 'nothing'}")
        for moment, init in scheduling.upcoming(one, 4 if dry_run else 1, now):
            typer.echo(f"{name}: next at {moment:%Y-%m-%dT%H:%M:%SZ} for {show_time(init)}")
    if not dry_run:
        with _unwound():
            scheduling.keep(scheduled, at_once=at_once or os.cpu_count() or 1, tell=typer.echo)


@app.command()
def status(
    pipeline: PipelineFile,
    only: Annotated[str | None, typer.Option(help="With a matrix: the name of the one pipeline to look at.")] = None,
    max_delay: Annotated[
        str | None, typer.Option(help="How old the newest forecast may be, e.g. 12h; as the pipeline says by default.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the newest maps, e.g. page.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, one pipeline a line.")] = False,
) -> None:
    """Say how old the newest forecast is, what is missing, how runs ended and how good forecasts were.

    Ends with 8 if a forecast is older than it may be. Nothing is written but the page, and runs are not disturbed.
    """
    from stforecast.operations.page import newest_maps, status_page, write_page
    from stforecast.operations.status import status as look
    from stforecast.operations.terminal import status_tables
    from stforecast.operations.words import headline

    allowed = None if max_delay is None else parse_duration(max_delay, name="--max-delay")
    if html is not None:
        _check_output(html, ".html")
    found = [(one, look(one, max_delay=allowed)) for one in _chosen_pipelines(pipeline, only)]
    for _, one in found:
        if as_json:
            typer.echo(json.dumps(one.to_dict()))
        else:
            Console(highlight=False, markup=False).print(status_tables(one))
    if html is not None:
        maps = {one.name: newest_maps(one.output, stands) for one, stands in found}
        write_page(html, status_page([one for _, one in found], maps))
    stale = [one for _, one in found if one.is_stale]
    for one in stale:
        _say(f"{one.pipeline}: {headline(one)} [{ErrorKind.STALE_OUTPUT}]")
    raise typer.Exit(ErrorKind.STALE_OUTPUT.exit_status if stale else 0)


@app.command()
def retrain(
    pipeline: PipelineFile,
    only: Annotated[str | None, typer.Option(help="With a matrix: the name of the one pipeline.")] = None,
    if_due: Annotated[bool, typer.Option("--if-due", help="Do nothing unless the pipeline's `every` is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON, one a line.")] = False,
) -> None:
    """Fit a new model on what the store has by now, and use it if it forecasts the last frames better.

    Forecasts go on meanwhile. What was interrupted is gone on with by the same command. Models that were in use before
    stay in the folder .models of the output, where the link `model` may be set back to one of them.
    """
    from stforecast.operations.retraining import retrain as fit_anew

    statuses: list[int] = []
    with _unwound():
        for one in _chosen_pipelines(pipeline, only):
            try:
                done = fit_anew(one, if_due=if_due)
            except StforecastError as error:
                statuses.append(_tell(error, as_json=as_json))
            else:
                statuses.append(0)
                typer.echo(json.dumps({"status": done.status} | done.record) if as_json else done.message)
    raise typer.Exit(_worst(statuses))


def _left(wait: timedelta, seconds: float) -> timedelta:
    """What is left of a deadline: pipelines of a matrix wait together, not each after the other."""
    return max(timedelta(0), wait - timedelta(seconds=round(seconds)))


def _chosen_pipelines(file: Path, only: str | None) -> "list[Pipeline]":
    from stforecast.operations.pipeline import read_pipelines

    pipelines = read_pipelines(file)
    chosen = [one for one in pipelines if only in (None, one.name)]
    if not chosen:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{file} has no pipeline {only}; there are {', '.join(one.name for one in pipelines)}"
        )
    return chosen


def _outcomes(
    pipeline: "Pipeline",
    init: str | None,
    backfill: str | None,
    catch_up: int | None,
    *,
    force: bool,
    wait: timedelta,
    dry_run: bool,
) -> "Iterator[Outcome | StforecastError]":
    """What becomes of the init times that were asked for; one pipeline's fault stops no other pipeline."""
    from stforecast.operations import running
    from stforecast.operations.cycles import cycle_of

    try:
        inits: list[np.datetime64 | None] = [None]
        if init is not None:
            inits = [cycle_of(pipeline).parse(init)]
        if backfill is not None:
            inits = list(running.missed(pipeline, *_bounds(backfill)))
        if catch_up is not None:
            inits = list(running.missed_lately(pipeline, catch_up))
        if dry_run:
            for one in inits:
                yield running.plan(pipeline, init=one, force=force)
        elif backfill is None and catch_up is None:
            yield running.run(pipeline, init=inits[0], force=force, deadline=wait)
        else:
            yield from running.run_missed(pipeline, np.array(inits, "datetime64[ns]"), deadline=wait)
    except StforecastError as error:
        yield error


def _bounds(backfill: str) -> "tuple[np.datetime64, np.datetime64]":
    try:
        return period_bounds(parse_period(backfill))
    except StforecastError as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"--backfill: {error}") from error


def _tell(outcome: "Outcome | StforecastError", *, as_json: bool) -> int:
    """Print what became of an init time; the status that the command would end with."""
    if isinstance(outcome, StforecastError):
        _say(f"{outcome} [{outcome.kind}]")
        if as_json:
            typer.echo(json.dumps({"status": "failed", "kind": str(outcome.kind), "message": str(outcome)}))
        return outcome.kind.exit_status
    typer.echo(json.dumps({"status": outcome.status} | outcome.record, default=str) if as_json else outcome.message)
    return outcome.exit_status


def _worst(statuses: list[int]) -> int:
    """The status that says most: a fault before something to try again, that before a degraded forecast."""
    order = {0: 0, 7: 1, 9: 2, 75: 3}
    return max(statuses, key=lambda status: order.get(status, 4), default=0)


@contextmanager
def _on_cluster(address: str | None) -> Iterator[None]:
    """Work on data goes to the scheduler at an address, where one is given."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, "--scheduler wants the package distributed: pip install stforecast[distributed]"
        ) from error
    try:
        client: Any = Client(address, timeout=_CONNECT_SECONDS)  # type: ignore[no-untyped-call]  # it has no types
    except (OSError, ValueError, TimeoutError) as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"there is no scheduler at {address} ({error}); start one, or mend the address"
        ) from error
    with client:
        yield


_CONNECT_SECONDS = 10
# How long a command that was told to end may take for it.
_GRACE_SECONDS = 60


def main() -> None:
    """Run the command line; a user's error is one line on stderr and the exit status of its kind.

    SIGINT ends with status 130 and SIGTERM with 143, once what is being written is whole or cleared and unlocked.
    """
    try:
        app(prog_name="stforecast")
    except StforecastError as error:
        _say(f"{error} [{error.kind}]")
        sys.exit(error.kind.exit_status)
    except OSError as error:
        _say(f"{without_credentials(str(error))} [{ErrorKind.IO_ERROR}]")
        sys.exit(ErrorKind.IO_ERROR.exit_status)
    except SystemExit as end:
        if end.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            _say(f"interrupted [{ErrorKind.INTERRUPTED}]")
        raise


@contextmanager
def _unwound() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does: locks are released and threads end what they write. A fit sees to it itself.

    What does not come to its end is ended a minute later, as a kill would, after which nothing is to be mended either.
    """

    def end(number: int, _: FrameType | None) -> None:
        # A signal may fall between the taking of a library's lock and the place that would release it, which then
        # waits for itself while it unwinds.
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(_GRACE_SECONDS, exit=True, file=sys.__stderr__)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGTERM, before)


def _say(fault: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"stforecast: {fault}")


if __name__ == "__main__":
    main()
