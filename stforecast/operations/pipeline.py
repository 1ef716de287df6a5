"""What a scheduled forecast is made of: one YAML file, checked before anything is done."""

import itertools
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from stforecast.baselines import fit_references, needs_training
from stforecast.configuration import Duration, Section, checked, read_yaml
from stforecast.errors import ErrorKind, StforecastError
from stforecast.local_time import check_time_zone
from stforecast.sources import SOURCES, check_options
from stforecast.sources.raw_files import is_url

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_PLACE = re.compile(r"\{([a-z_]+)\}")
# In the output, a link to the model that was fitted anew last and was better.
MODEL_LINK = "model"
_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("wanted at most 64 lower-case letters, digits and hyphens, for it names files")
    return name


def _check_cycle(every: timedelta) -> timedelta:
    if not every or every % _MINUTE or (_DAY % every and every % _DAY):
        raise ValueError("wanted whole minutes that divide a day, or whole days")
    return every


def _refuse_schedules(said: object) -> object:
    """Refuse times of day and zones: a cycle is a length, so that no clock that is set forward or back moves it."""
    if isinstance(said, str) and not re.fullmatch(r"(\s*\d+\s*[a-z]+)+\s*", said):
        raise ValueError(
            "wanted a length such as 6h: forecasts are made for its multiples since midnight, on the clock of the "
            "series. Cron text, times of day and time zones are no cycle; `stforecast schedule` starts runs by UTC"
        )
    return said


def _check_source(source: str) -> str:
    if source not in SOURCES:
        raise ValueError(f"wanted one of {', '.join(SOURCES)}")
    return source


def _check_baseline(name: str) -> str:
    if not needs_training([name]):
        fit_references([name], horizon=1)
    return name


def _check_zone(zone: str) -> str:
    check_time_zone(zone)
    return zone


Name = Annotated[str, AfterValidator(_check_name)]
WebAddress = Annotated[str, Field(pattern=r"^https?://")]
BaselineName = Annotated[str, AfterValidator(_check_baseline)]


class Input(Section):
    """Where new frames come from; others put them there.

    Attributes:
        path: a file, a folder, a glob, a zarr store or a URL, as `open_dataset` takes it.
        source: the layout; told from the content by default.
        variables: those to take; the store's by default.
        bounds: edges of a city grid, see `open_dataset`.
        time_zone: a city's clock, see `open_dataset`.
        arrives_after: how long after its valid time a frame usually is there.
        settles_after: how long a file has to be left alone before it is read; for deliveries that are not renamed into
            their place.
        revisions: what becomes of frames that come again with other values: "keep" what was forecast from, or "replace"
            it. Both are told of.
    """

    path: str
    source: Annotated[str, AfterValidator(_check_source)] | None = None
    variables: tuple[str, ...] | None = None
    bounds: tuple[float, float, float, float] | None = None
    time_zone: Annotated[str, AfterValidator(_check_zone)] | None = None
    arrives_after: Duration = timedelta(0)
    settles_after: Duration = timedelta(0)
    revisions: Literal["keep", "replace"] = "keep"

    @model_validator(mode="after")
    def _of_the_source(self) -> "Input":
        if self.source is not None:
            check_options(self.source, self.path, bounds=self.bounds, time_zone=self.time_zone)
        return self


class Rung(Section):
    """What is forecast from when the input of a cycle is late: one of `model` and `baseline`, or the same model.

    Attributes:
        within: how old the last frame may be that is seen.
        model: another model; its own folder or the name of a packaged one.
        baseline: a baseline by its name, fitted on the store's training period.
        store: another store that grows from the same input, for a model of fewer variables; the pipeline's by default.
    """

    within: Duration = timedelta(0)
    model: str | None = None
    baseline: BaselineName | None = None
    store: Path | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Rung":
        if self.model is not None and self.baseline is not None:
            raise ValueError("a rung is a model or a baseline; give one of them")
        if self.model is None and self.baseline is None and not self.within:
            raise ValueError("a rung wants a model, a baseline, or within: how old the model's last frame may be")
        return self

    @property
    def label(self) -> str:
        """What it is called in records and on the forecast."""
        return self.baseline or (f"model {Path(self.model).name}" if self.model else "model")


class Checks(Section):
    """What a forecast has to pass before it is published.

    Attributes:
        drift: whether fields unlike any of the training period stop it; impossible values always do.
        jump: how far it may lie from the forecast before, where both speak of the same valid times: the root mean
            square over cells, in standard deviations of the variable; null for no such check. Those of another model,
            or of a fallback, are not compared.
    """

    drift: bool = True
    jump: PositiveFloat | None = 1.0


class Maps(Section):
    """Which maps each run draws.

    Attributes:
        leads: lead times, each a map; the last one by default, [] for no maps.
        variables: variables; all by default.
    """

    leads: tuple[Duration, ...] | None = None
    variables: tuple[str, ...] | None = None


class Scores(Section):
    """How forecasts are scored once their truth is in the store.

    Attributes:
        references: baselines that they are held against.
        days: how many days `stforecast status` looks back.
    """

    references: tuple[BaselineName, ...] = ("persistence",)
    days: PositiveInt = 30


class Retrain(Section):
    """When a new model is fitted, and what it has to beat.

    Attributes:
        every: how long after the fit before, by the times of the data.
        preset: what it is fitted by, see `stforecast.preset_of`.
        recent: the last frames, held out, on which it has to be better than the present model.
        validation: the frames before those, which choose the weights.
        epochs: passes over the training windows; the preset's by default.
        history: frames that the network sees; the preset's by default.
        horizon: steps that it forecasts; the present model's by default.
    """

    every: Duration
    preset: Literal["weather", "traffic"]
    recent: Duration = timedelta(days=30)
    validation: Duration = timedelta(days=30)
    epochs: PositiveInt | None = None
    history: PositiveInt | None = None
    horizon: PositiveInt | None = None


class Monitor(Section):
    """Who is told of runs beside the records; nobody by default.

    Attributes:
        prometheus: a text file for node_exporter's textfile collector.
        webhook: a URL to which the record of each run is posted as JSON.
    """

    prometheus: Path | None = None
    # Its path may be what lets one in, so nothing shows it.
    webhook: Annotated[WebAddress | None, Field(repr=False)] = None


class Pipeline(Section):
    """A forecast that is made by the clock.

    Attributes:
        name: what logs and monitors call it.
        input: where new frames come from.
        store: what `stforecast prepare` made; each run puts new frames into it.
        model: the folder of a fitted model, or the name of a packaged one.
        output: the folder of the forecasts.
        cycle: forecasts are made for multiples of it since midnight, on the clock of the series.
        horizon: steps to forecast; as fitted by default.
        interval: the share of truth between lower and upper bounds; no bounds by default.
        deadline: how long a run waits for input that is late.
        fallback: what is tried then, in this order.
        checks: what a forecast has to pass.
        maps: what is drawn.
        scores: what forecasts are held against.
        retention: how long forecasts are kept, by their init times; for good by default.
        threads: threads that compute, so that the same init time gives the same bytes.
        timeout: how long a run may take beside its waiting.
        stale_after: how old the newest forecast may be; two cycles by default, beside `input.arrives_after`.
        catch_up: how many cycles `stforecast schedule` makes up for after a pause.
        retrain: when a new model is fitted; never by default.
        monitor: who is told of runs.
    """

    name: Name
    input: Input
    store: Path
    model: str
    output: Path
    cycle: Annotated[Duration, BeforeValidator(_refuse_schedules), AfterValidator(_check_cycle)]
    horizon: PositiveInt | None = None
    interval: Annotated[float, Field(gt=0, lt=1)] | None = None
    deadline: Duration = timedelta(0)
    fallback: tuple[Rung, ...] = ()
    checks: Checks = Checks()
    maps: Maps = Maps()
    scores: Scores = Scores()
    retention: Duration | None = None
    threads: PositiveInt = 1
    timeout: Duration = timedelta(hours=2)
    stale_after: Duration | None = None
    catch_up: PositiveInt = 4
    retrain: Retrain | None = None
    monitor: Annotated[Monitor, Field(repr=False)] = Monitor()

    @model_validator(mode="after")
    def _as_far_as_before(self) -> "Pipeline":
        new = None if self.retrain is None else self.retrain.horizon
        if new is not None and self.horizon is not None and new < self.horizon:
            raise ValueError(
                f"retrain.horizon is {new} steps, and forecasts have {self.horizon}; raise it or leave it out"
            )
        return self


def present_model(pipeline: Pipeline) -> str:
    """The model that forecasts are made by: the last one that was fitted anew and was better, else the given one."""
    refitted = pipeline.output / MODEL_LINK
    return str(refitted.resolve()) if refitted.is_symlink() else pipeline.model


def read_pipelines(path: str | Path) -> list[Pipeline]:
    """The pipelines of a YAML file: one, or one for each place of its matrix.

    Paths are those of the file's folder unless they are absolute. With `matrix: {city: [bonn, ulm]}` each {city} in the
    file stands for one of them, and the pipeline's name ends in it; several keys make all their combinations. A list
    may also hold mappings, whose keys are further placeholders.

    Raises:
        StforecastError: what `read_yaml` and `checked` refuse; ARGUMENT for a matrix that is none, or a placeholder
            that is not in it.
    """
    path = Path(path)
    settings = read_yaml(path)
    matrix = settings.pop("matrix", None)
    if matrix is None:
        return [_pipeline(settings, path, {})]
    pipelines = [_pipeline(settings, path, place) for place in _places(matrix, path)]
    owned: dict[str, list[Any]] = {
        "name": [pipeline.name for pipeline in pipelines],
        "output": [pipeline.output for pipeline in pipelines],
        "monitor.prometheus": [one.monitor.prometheus for one in pipelines if one.monitor.prometheus is not None],
    }
    for key, values in owned.items():
        if len(set(values)) < len(values):
            raise StforecastError(
                ErrorKind.ARGUMENT, f"{path}: several pipelines of the matrix have the {key} {values[0]}; name a place"
            )
    return pipelines


def _places(matrix: Any, path: Path) -> list[dict[str, str]]:
    """What placeholders stand for, in each pipeline of a matrix."""
    if not (isinstance(matrix, dict) and matrix and all(isinstance(some, list) and some for some in matrix.values())):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{path}: matrix wants lists by name, such as city: [bonn, ulm], got {matrix!r}"
        )
    axes = []
    for name, values in matrix.items():
        given = [value if isinstance(value, dict) else {name: value} for value in values]
        if not all(name in value for value in given):
            raise StforecastError(ErrorKind.ARGUMENT, f"{path}: each entry of matrix.{name} wants the key {name}")
        axes.append([{str(key): str(value) for key, value in one.items()} for one in given])
    return [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*axes)]


def _pipeline(settings: Mapping[str, Any], path: Path, place: Mapping[str, str]) -> Pipeline:
    filled = _filled(settings, place, path)
    if place and isinstance(filled.get("name"), str) and filled["name"] == settings["name"]:
        filled["name"] = "-".join([filled["name"], *place.values()])
    pipeline = checked(filled, Pipeline, where=path)
    # So that .. at the beginning of a path means what it says; what is behind it may lead where it likes.
    folder = path.parent.resolve()
    location = pipeline.input.path
    return pipeline.model_copy(
        update={
            "input": pipeline.input.model_copy(
                update={"path": location if is_url(location) else str(_at(folder, location))}
            ),
            "store": _at(folder, pipeline.store),
            "model": _model(pipeline.model, folder),
            "output": _at(folder, pipeline.output),
            "fallback": tuple(
                rung.model_copy(
                    update={
                        "model": rung.model and _model(rung.model, folder),
                        "store": rung.store and _at(folder, rung.store),
                    }
                )
                for rung in pipeline.fallback
            ),
            "monitor": pipeline.monitor.model_copy(
                update={"prometheus": pipeline.monitor.prometheus and _at(folder, pipeline.monitor.prometheus)}
            ),
        }
    )


def _at(folder: Path, said: str | Path) -> Path:
    """A path as seen from a folder, without its .. and . where they stand for folders that are known."""
    return Path(os.path.normpath(folder / said))


def _model(said: str, folder: Path) -> str:
    """A folder of a model as one, the name of a packaged model as it is."""
    return str(_at(folder, said)) if (folder / said).is_dir() or said != Path(said).name else said


def _filled(value: Any, place: Mapping[str, str], path: Path) -> Any:
    """A value with what its placeholders stand for."""
    if isinstance(value, dict):
        return {key: _filled(inside, place, path) for key, inside in value.items()}
    if isinstance(value, list):
        return [_filled(inside, place, path) for inside in value]
    if not isinstance(value, str):
        return value
    unknown = [name for name in _PLACE.findall(value) if name not in place]
    if unknown:
        shown = "a URL" if is_url(value) else repr(value)
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"{path}: {{{unknown[0]}}} in {shown} is not in the matrix ({', '.join(place) or 'none'})",
        )
    return _PLACE.sub(lambda found: place[found[1]], value)
