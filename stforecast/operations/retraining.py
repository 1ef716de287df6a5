"""A new model now and then, fitted beside the forecasts, and taken only if it is better on what came last."""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import confirm, faults_named, link_to
from stforecast.grid import find_dims, times_of
from stforecast.operations.cycles import Clock, init_of, name_of
from stforecast.operations.discretion import Discretion
from stforecast.operations.journal import circumstances, logged, say
from stforecast.operations.pipeline import MODEL_LINK, Pipeline, Retrain, present_model
from stforecast.split import PARTS, Split
from stforecast.store import open_store, prepare
from stforecast.store.versions import current_version, lock, publish, recall, remember
from stforecast.time_axis import Times, show_time
from stforecast.verification import evaluate

# A scheduler asks whether a model is due and stays; what fits one takes seconds to import and much memory.
if TYPE_CHECKING:
    from stforecast.forecaster import Forecaster

RETRAINS = "retrains"
_MODELS, _WORK = ".models", ".retraining"
# Those that one may go back to.
_MODELS_KEPT = 10
_PUBLISHED, _KEPT, _FAILED, _NOT_DUE = "published", "kept", "failed", "not due"
# What failed is tried again before the next model is due, but not each time that somebody asks.
_AFTER_A_FAULT = np.timedelta64(1, "D")
_FRAMES_OF_SPREAD = 64


@dataclass(frozen=True)
class Retraining:
    """What became of fitting a model anew.

    Attributes:
        pipeline: its name.
        status: "published", "kept" (the present model is better) or "not due".
        message: the same for people.
        record: what is known of it, as it lies in the folder `retrains` of the output.
    """

    pipeline: str
    status: str
    message: str
    record: dict[str, Any] = field(default_factory=dict)


def is_due(pipeline: Pipeline) -> bool:
    """Whether a new model is to be fitted: by the times of the store, `every` after the fit before.

    Raises:
        StforecastError: what `open_store` raises.
    """
    if pipeline.retrain is None:
        return False
    times = times_of(open_store(pipeline.store))
    done, failed = _last_attempts(pipeline)
    if failed is not None and times[-1] - failed < min(_AFTER_A_FAULT, np.timedelta64(pipeline.retrain.every)):
        return False
    since = _end_of_first_fit(pipeline, times) if done is None else done
    return since is None or bool(times[-1] - since >= np.timedelta64(pipeline.retrain.every))


def _last_attempts(pipeline: Pipeline) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """The ends of the data of the last model that was fitted anew, and of the last attempt if that failed."""
    done = failed = None
    folder = pipeline.output / RETRAINS
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        end, record = init_of(file.stem), recall(file)
        if end is not None and record is not None:
            done, failed = (done, end) if record["status"] == _FAILED else (end, None)
    return done, failed


def _end_of_first_fit(pipeline: Pipeline, times: Times) -> np.datetime64 | None:
    """The last frame in the test period of a model that came with the pipeline; None if nothing tells it."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((Path(present_model(pipeline)) / "model.json").read_text())["split"]
        split = Split(*(tuple(known[part]) for part in PARTS))
        end: np.datetime64 = times[split.part_rows(times, "test").stop - 1]
        return end
    return None


def retrain(pipeline: Pipeline, *, if_due: bool = False, clock: Clock | None = None) -> Retraining:
    """What became of fitting a new model to all that the store has by now.

    The last frames (`recent`) are held out and those before them (`validation`) choose the weights, so the model knows
    nothing of the former. It forecasts them, the present model does, and it takes the present one's place only if its
    root mean square error is lower. Forecasts go on meanwhile, by the present model. What was interrupted is gone on
    with by the next call, on the same frames.

    Args:
        pipeline: with `retrain`.
        if_due: whether to do nothing unless it is due.
        clock: what time it is.

    Raises:
        StforecastError: ARGUMENT without `retrain`, or for a horizon below that of the forecasts; RUN_ACTIVE, naming
            who is at it; TIME_SHORT if there are too few frames; what `prepare` and `fit` raise; OUTPUT_INVALID if the
            new model's forecasts cannot be. The present model stays then.
    """
    if pipeline.retrain is None:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{pipeline.name} has no retrain section; say there when and by which preset to fit"
        )
    with (
        faults_named(pipeline.output / MODEL_LINK),
        lock(pipeline.output / MODEL_LINK, busy=ErrorKind.RUN_ACTIVE, doing="fitted anew"),
        logged(pipeline),
    ):
        if if_due and not is_due(pipeline):
            return Retraining(pipeline.name, _NOT_DUE, f"{pipeline.name}: a new model is not due yet; nothing to do")
        return _Attempt(pipeline, pipeline.retrain, clock or Clock()).made()


class _Attempt:
    """One attempt at a new model, and what is known of it so far."""

    def __init__(self, pipeline: Pipeline, settings: Retrain, clock: Clock) -> None:
        self._pipeline, self._settings, self._clock = pipeline, settings, clock
        self._work = pipeline.output / _WORK
        self._record: dict[str, Any] = {"pipeline": pipeline.name, "started": self._now()}
        self._begun = time.monotonic()

    def made(self) -> Retraining:
        """The decision, recorded; a fault is recorded as well."""
        end = None
        try:
            end, split = self._begin()
            say("retraining", pipeline=self._pipeline.name, end=show_time(end), preset=self._settings.preset)
            status = self._decide(end, split)
        except StforecastError as error:
            if end is not None:
                self._keep(end, _FAILED, error={"kind": str(error.kind), "message": str(error)})
            raise
        self._keep(end, status)
        shutil.rmtree(self._work, ignore_errors=True)
        return Retraining(self._pipeline.name, status, self._message(status), self._record)

    def _begin(self) -> tuple[np.datetime64, Split]:
        """The last frame and the periods: those of an attempt that was interrupted, or of the store as it is now."""
        store = self._pipeline.store
        times, plan_file = times_of(open_store(store)), self._work / "plan.json"
        settings = self._settings.model_dump(mode="json") | {"model": present_model(self._pipeline)}
        plan = recall(plan_file) or {}
        if plan.get("settings") == settings:
            end = np.datetime64(plan["end"], "ns")
            is_old = times[-1] - end >= np.timedelta64(self._settings.every)
            if not is_old and not self._file(end).exists():
                self._record["resumed"] = True
                return end, Split.from_attrs(plan)
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        split = _split(times, self._settings)
        remember(plan_file, {"end": show_time(times[-1]), "split": split.to_json(), "settings": settings})
        return times[-1], split

    def _decide(self, end: np.datetime64, split: Split) -> str:
        """Fit, compare and publish what is better; the status."""
        from stforecast.fitting import fit
        from stforecast.operations.making import use_threads
        from stforecast.presets import preset_of
        from stforecast.pretrained import load_model

        use_threads(self._pipeline.threads)
        present = load_model(present_model(self._pipeline))
        wanted = self._pipeline.horizon or present.horizon
        horizon = self._settings.horizon or present.horizon
        if self._settings.horizon is not None and horizon < wanted:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"retrain.horizon is {horizon} steps, and forecasts have {wanted}; raise it or leave it out",
            )
        store = self._prepared(present, end, split)
        training = preset_of(self._settings.preset).training
        fitted = fit(
            store,
            preset=self._settings.preset,
            history=self._settings.history,
            horizon=horizon,
            training=replace(training, epochs=self._settings.epochs or training.epochs),
            run=self._work / "run",
        )
        series = open_store(store)
        self._record |= {
            "periods": json.loads(split.to_json()),
            "preset": self._settings.preset,
            "candidate": {"model": fitted.weights_hash(), "horizon": horizon, "history": fitted.history},
            "present": {"model": present.weights_hash()},
            "versions": circumstances()["versions"],
        }
        self._compare(fitted, present, series, wanted)
        new, old = self._record["candidate"]["rmse"], self._record["present"]["rmse"]
        if not (old is None or new < old):
            return _KEPT
        self._publish(fitted, end)
        return _PUBLISHED

    def _prepared(self, present: "Forecaster", end: np.datetime64, split: Split) -> Path:
        """A store of its own with the frames up to the end, normalized by its own training period.

        It has the variables, levels and cells that the present model forecasts, and is not changed by runs.
        """
        store, copy = self._work / "series.zarr", self._work / "copy.zarr"
        if store.is_dir():
            return store
        shutil.rmtree(copy, ignore_errors=True)
        _link_version(self._pipeline.store, copy)
        series = open_store(copy)
        series = series.isel(time=times_of(series) <= end)
        methods = {name: known["method"] for name, known in json.loads(series.attrs["normalization"]).items()}
        inits = present.init_times(series, horizon=0)
        if not len(inits):
            raise StforecastError(
                ErrorKind.TIME_SHORT,
                f"{self._pipeline.store} has nowhere the {present.history} frames in a row that the present model sees",
            )
        one = present.predict(series, init_times=inits[-1:], horizon=1)
        names = [str(name) for name in one.data_vars]
        labels = {dim: one[dim] for dim in one.dims if dim in series.dims and dim in series.coords}
        series = series[names].sel(labels)
        series.attrs = {key: value for key, value in series.attrs.items() if key not in ("split", "normalization")}
        prepare(series, store, split, method={name: methods[name] for name in names}, allow_gaps=True)
        shutil.rmtree(copy, ignore_errors=True)
        return store

    def _compare(self, fitted: "Forecaster", present: "Forecaster", series: xr.Dataset, horizon: int) -> None:
        """Note how far both are from the truth of the held-out part, over all lead times and variables.

        Errors are in standard deviations of the training period, so that variables count alike.
        """
        from stforecast.prediction import predict

        inits = fitted.init_times(series, part="test", horizon=horizon)
        inits = np.intersect1d(inits, present.init_times(series, horizon=horizon))
        if not len(inits):
            raise StforecastError(
                ErrorKind.TIME_SHORT,
                f"no forecast of both models lies in the last {self._settings.recent}; raise retrain.recent",
            )
        self._record["init_times"] = len(inits)
        options: dict[str, Any] = {"init_times": inits, "horizon": horizon}
        candidate = predict(series, fitted, **options)
        spread = _spread(series)
        try:
            both = evaluate(
                candidate, series, reference={"present": predict(series, present, **options)}, metrics=("rmse",)
            )
        except StforecastError as error:
            if error.kind != ErrorKind.OUTPUT_INVALID:
                raise
            # Whose forecasts they are is not said; the present model is judged only if the new one is sound.
            both = evaluate(candidate, series, metrics=("rmse",))
            self._record["present"]["reason"] = str(error)
        for who, source in (("candidate", "forecast"), ("present", "present")):
            known = both.sel(source=source, metric="rmse") if source in both["source"] else None
            squares = (
                []
                if known is None
                else [float(np.square(known[name] / spread[name]).mean()) for name in candidate.data_vars]
            )
            self._record[who]["rmse"] = float(np.sqrt(np.mean(squares))) if squares else None
        learnt = times_of(series)
        for part in ("train", "validation"):
            with suppress(StforecastError):
                if learnt[present.split.part_rows(learnt, part)][-1] > inits[0]:
                    self._record["remark"] = (
                        "the present model was fitted on frames of the held-out part, which is in its favour"
                    )

    def _publish(self, fitted: "Forecaster", end: np.datetime64) -> None:
        """Save a model beside those before it, and let runs find it, in one step."""
        models = self._pipeline.output / _MODELS
        models.mkdir(exist_ok=True)
        folder, number = models / name_of(end), 1
        while folder.exists():
            number += 1
            folder = models / f"{name_of(end)}.{number}"
        fitted.save(folder)
        link_to(self._pipeline.output / MODEL_LINK, Path(_MODELS) / folder.name)
        confirm(self._pipeline.output, self._pipeline.output / MODEL_LINK)
        self._record["folder"] = str(Path(_MODELS) / folder.name)
        by_age = sorted(models.iterdir(), key=lambda model: model.name)
        for old in set(by_age[:-_MODELS_KEPT]) - {folder}:
            shutil.rmtree(old, ignore_errors=True)

    def _keep(self, end: np.datetime64, status: str, **more: Any) -> None:
        """Write the record."""
        self._record |= {"status": status, "end": show_time(end), "ended": self._now(), **more}
        self._record["seconds"] = round(time.monotonic() - self._begun, 1)
        say("retrained", **self._record)
        file = self._file(end)
        file.parent.mkdir(parents=True, exist_ok=True)
        remember(file, Discretion.of(self._pipeline).record(self._record))

    def _file(self, end: np.datetime64) -> Path:
        return self._pipeline.output / RETRAINS / f"{name_of(end)}.json"

    def _message(self, status: str) -> str:
        new, old = self._record["candidate"]["rmse"], self._record["present"]["rmse"]
        than = "none, as it gave no forecast" if old is None else f"{old:.4g}"
        what = "the new model is in use" if status == _PUBLISHED else "the present model stays"
        return (
            f"{self._pipeline.name}: {what}; on the {self._record['init_times']} forecasts of the held-out part from "
            f"{self._record['periods']['test'][0]} on its error is {new:.4g} standard deviations, that of the present "
            f"model {than}"
        )

    def _now(self) -> str:
        return self._clock.now().astimezone(UTC).isoformat(timespec="seconds")


def _split(times: Times, settings: Retrain) -> Split:
    """The last frames to compare models on, those before to choose weights by, all before that to learn from."""
    held_out = times[-1] - np.timedelta64(settings.recent)
    chosen_by = held_out - np.timedelta64(settings.validation)
    parts = (times[times <= chosen_by], times[(times > chosen_by) & (times <= held_out)], times[times > held_out])
    if not all(len(part) for part in parts):
        raise StforecastError(
            ErrorKind.TIME_SHORT,
            f"frames from {show_time(times[0])} to {show_time(times[-1])} leave none for one of training, "
            f"retrain.validation ({settings.validation}) and retrain.recent ({settings.recent})",
        )
    return Split(*((show_time(part[0]), show_time(part[-1])) for part in parts))


def _link_version(store: Path, copy: Path) -> None:
    """A store of the same files as another one's current version, which stays when that grows."""
    staged = copy.with_name(f".{copy.name}.partial")
    while True:
        version = current_version(store)
        shutil.rmtree(staged, ignore_errors=True)
        try:
            shutil.copytree(version, staged, copy_function=_link_or_copy)
            break
        except (OSError, shutil.Error):
            # Runs may have published twice meanwhile, and retired it.
            if current_version(store) == version:
                raise
    publish(staged, copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        # On another file system.
        shutil.copy2(source, target)


def _spread(series: xr.Dataset) -> xr.Dataset:
    """The standard deviation of each variable and level, ([level]), over cells and some frames of the training part."""
    training = series.sel(time=slice(*Split.from_attrs(series.attrs).train))
    rows = np.unique(np.linspace(0, training.sizes["time"] - 1, _FRAMES_OF_SPREAD).astype(int))
    spread: xr.Dataset = training.isel(time=rows).std(find_dims(series, "T", "Y", "X")).compute()
    return spread
