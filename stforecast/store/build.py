"""Building a store from a series: statistics, then shards, each resumable, then one step that publishes."""

import errno
import functools
import json
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import make_durable, sha256, sync, unwritten
from stforecast.grid import check_finite, check_series
from stforecast.limits import check_range
from stforecast.normalization import METHODS, Moments, Normalization, Scaling, Values, observed
from stforecast.split import Split, frames_in
from stforecast.store.layout import (
    STORE_VERSION,
    Layout,
    in_store_order,
    plain,
    shard_file,
    write_template,
)
from stforecast.store.reading import open_store
from stforecast.store.shards import write_shard
from stforecast.store.tasks import run_tasks
from stforecast.store.versions import (
    GROUP,
    Files,
    digest_of,
    is_store,
    lock,
    publish,
    recall,
    remember,
    staging_of,
    write_manifest,
)
from stforecast.time_axis import find_gaps, show_time

# How long a part waits for others to begin; none takes longer than to make some folders.
_PATIENCE_SECONDS = 60.0

Part = tuple[int, int]
NanPolicy = Literal["refuse", "drop"]


def prepare(
    series: xr.Dataset,
    path: str | Path,
    split: Split,
    *,
    method: str | Mapping[str, str] = "z-score",
    allow_gaps: bool = False,
    nan: NanPolicy = "refuse",
    part: Part | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """The series, opened from the normalized Zarr store that this makes of it.

    Statistics come from the training period alone, in float64, per variable and level, and lie inside the store with
    the split. One pass goes over the training period and one over all frames, each with one dask task per shard, on the
    caller's dask.distributed client where there is one and on threads otherwise. The store is built beside its place
    and appears there in one step: a reader finds the old store or the new one. A build that was interrupted goes on
    where it was when the same call is made again, and ends in the same bytes; one that was refused leaves nothing.

    Several processes can share a build, in any order and with no coordinator: each calls this with its `part`, and a
    last call without one does what is left, verifies and publishes.

    Args:
        series: (time, [level,] Y, X) with units, from `open_dataset` or one's own. Coordinates beside the axes, static
            fields (Y, X) among them, are kept.
        path: where the store is to stand, by custom ending in .zarr.
        split: the periods to train, validate and test on.
        method: how to normalize: z-score, min-max, log1p or tendency, for all variables or by variable.
        allow_gaps: declares that frames may be absent; no window will cross a gap.
        nan: what to do with frames that have NaN: refuse the series, or drop them, which leaves gaps.
        part: (i, n) with 1 <= i <= n to build one of n shares and publish nothing; the series is then returned as is.
        overwrite: whether to put the new store in the place of one that is there.
        progress: whether to draw progress bars.

    Raises:
        StforecastError: what `check_series` and `Split.rows` refuse; NAN, INF or RANGE with variable, count and first
            place; CONST for a variable that does not vary; INPUT_CHANGED if the data change during the build;
            OUTPUT_EXISTS; STORE_BUSY; DISK_FULL; PERMISSION.

    Examples:
        >>> import tempfile
        >>> import pandas as pd
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> split = Split(
        ...     train=("2020-01-01", "2020-01-04"), validation=("2020-01-05", "2020-01-06"), test=("2020-01-07", "2020")
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = prepare(series, f"{folder}/t2m.zarr", split).load()
        >>> bool((abs(stored["t2m"] - series["t2m"]) < 1e-4).all())
        True
    """
    return make_store(
        series,
        Path(path),
        split,
        method=method,
        allow_gaps=allow_gaps,
        nan=nan,
        part=part,
        overwrite=overwrite,
        progress=progress,
    )


def make_store(
    series: xr.Dataset,
    path: Path,
    split: Split,
    *,
    method: str | Mapping[str, str],
    allow_gaps: bool,
    nan: NanPolicy = "refuse",
    part: Part | None = None,
    overwrite: bool,
    progress: bool = False,
    is_locked: bool = False,
) -> xr.Dataset:
    """What `prepare` gives; `is_locked` says that the caller has the store's lock."""
    step = check_series(series, allow_gaps=allow_gaps or nan == "drop")
    identity = _identity(series)
    series = in_store_order(series)
    _check_names(series)
    methods = _methods(series, method)
    _check_part(part, identity)
    needed = _check_target(path, series, overwrite=overwrite)
    split.rows(series["time"].to_numpy())
    holder = lock(path) if part is None and not is_locked else _nothing()
    with holder, _staging(path, keep=part is not None, needed=needed) as staging:
        if nan == "drop":
            series = _without_nan(series, progress=progress)
        series = series.assign_attrs(_store_attrs(series, split, step))
        build = Build(series, staging, split, methods, step, identity)
        # Of several parts that begin at once, one makes the folder.
        with _nothing() if part is None else lock(path, patience=_PATIENCE_SECONDS):
            build.begin()
        build.run(part, progress=progress)
        if part is not None:
            return series
        known = build.written()
        _leave_group_alone(staging)
        write_manifest(staging, known)
        publish(staging, path)
    return open_store(path)


@dataclass(frozen=True)
class Build:
    """A store in the making, all of whose state lies on the disk.

    Attributes:
        series: the series in the store's order, with the attributes that the store will have.
        staging: the folder that becomes a version: the group, and notes of what is done.
        split: the periods.
        methods: how each variable is normalized.
        step: the step of the series.
        identity: what tells its values from others; None if nothing does, and then no build goes on with another.
    """

    series: xr.Dataset
    staging: Path
    split: Split
    methods: Mapping[str, str]
    step: np.timedelta64
    identity: Any

    @property
    def layout(self) -> Layout:
        """Chunks and shards of the store."""
        return Layout.of(self.series)

    def begin(self) -> None:
        """Make the folder, or take up the one of an interrupted build of the same series by the same recipe."""
        recipe = self._recipe()
        note = self.staging / "recipe.json"
        is_same = self.identity is not None and note.exists() and note.read_text() == json.dumps(recipe)
        if self.staging.exists() and not is_same:
            shutil.rmtree(self.staging)
        for folder in ("statistics", "written"):
            (self.staging / folder).mkdir(parents=True, exist_ok=True)
        self._stop.unlink(missing_ok=True)
        remember(note, recipe)

    def _recipe(self) -> dict[str, Any]:
        """What two builds must share for one to go on with the other."""
        coordinates = {
            str(name): _sum_of(coordinate.to_numpy())
            for name, coordinate in sorted(self.series.coords.items(), key=lambda item: str(item[0]))
        }
        variables = {
            str(name): [
                list(map(str, variable.dims)),
                list(variable.shape),
                self.methods[str(name)],
                plain(variable.attrs),
            ]
            for name, variable in self.series.data_vars.items()
        }
        layout = [self.layout.chunk, self.layout.shard]
        described = [STORE_VERSION, self.identity, coordinates, variables, plain(self.series.attrs), layout]
        recipe: dict[str, Any] = json.loads(json.dumps({"recipe": described}, default=str))
        return recipe

    def run(self, part: Part | None, *, progress: bool) -> None:
        """Do a part of the work, or all that is left of it."""
        shards = range(len(self.layout.shards))
        own = shards if part is None else shards[part[0] - 1 :: part[1]]
        # Scales need the statistics of all training frames. What others have not done yet is done here as well rather
        # than waited for: the notes are the same whoever writes them.
        for some in (own, shards):
            trained = [number for number in some if frames_in(self._inside(number))]
            self._note_statistics([number for number in trained if recall(self._statistics(number)) is None], progress)
        normalization = self._normalization()
        if not (self.staging / "template.json").exists():
            self._write_template(normalization)
        self._write([number for number in own if not self._is_written(number)], normalization, progress)

    def _write_template(self, normalization: Normalization) -> None:
        """Metadata and coordinates, made whole beside and put in place by whichever process is first."""
        made = self.staging / f".template.{uuid.uuid4().hex[:8]}"
        write_template(made, self.series, self.layout, normalization)
        # The note may outlive a loss of power, so what it stands for must as well.
        make_durable(made)
        try:
            made.rename(self.staging / GROUP)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process was first, with the same bytes.
            shutil.rmtree(made)
        sync(self.staging)
        remember(self.staging / "template.json", True)

    @functools.cached_property
    def _train(self) -> slice:
        return self.split.part_rows(self.series["time"].to_numpy(), "train")

    def _inside(self, number: int) -> slice:
        """The training frames of a shard, counted from its first frame."""
        return _cut(self.layout.shards[number], self._train)

    @property
    def _stop(self) -> Path:
        return self.staging / "stop"

    def _statistics(self, number: int) -> Path:
        return self.staging / "statistics" / f"{number}.json"

    def _written(self, number: int) -> Path:
        return self.staging / "written" / f"{number}.json"

    def _note_statistics(self, numbers: Sequence[int], progress: bool) -> None:
        tasks = []
        for number in numbers:
            first, inside = self.layout.shards[number].start, self._inside(number)
            # The change to the first frame of a shard is from the last frame of the one before, if that is of the part.
            ahead = int("tendency" in self.methods.values() and not inside.start and first > self._train.start)
            block = self.series.isel(time=slice(first + inside.start - ahead, first + inside.stop))
            tasks.append(
                functools.partial(
                    _note_shard_statistics, block, ahead, dict(self.methods), self.step, self._statistics(number)
                )
            )
        self._run(tasks, numbers, "reading statistics" if progress else None)

    def _run(self, tasks: Sequence[Callable[[], None]], numbers: Sequence[int], description: str | None) -> None:
        """Do one task for each of some shards."""
        times, names = self.series["time"].to_numpy(), ", ".join(map(str, self.series.data_vars))
        parts = [self.layout.shards[number] for number in numbers]
        blocks = [f"{names} from {show_time(times[rows.start])} to {show_time(times[rows.stop - 1])}" for rows in parts]
        run_tasks(tasks, description, stop=self._stop, blocks=blocks)

    def _normalization(self) -> Normalization:
        """The normalization by the statistics of all shards, merged in order of time whoever noted them."""
        merged: dict[str, dict[str, Moments]] = {}
        for number in range(len(self.layout.shards)):
            for name, kinds in (recall(self._statistics(number)) or {"moments": {}})["moments"].items():
                known = merged.setdefault(name, {})
                for kind, attrs in kinds.items():
                    moments = Moments.from_attrs(attrs)
                    known[kind] = known[kind].merge(moments) if kind in known else moments
        return Normalization(
            {
                str(name): Scaling.fit(
                    str(name),
                    self.methods[str(name)],
                    str(variable.attrs["units"]),
                    merged[str(name)]["values"],
                    merged[str(name)].get("changes"),
                )
                for name, variable in self.series.data_vars.items()
            }
        )

    def _write(self, numbers: Sequence[int], normalization: Normalization, progress: bool) -> None:
        tasks = [
            functools.partial(
                _write_one_shard,
                self.series.isel(time=self.layout.shards[number]),
                self.staging / GROUP,
                number,
                self.layout,
                normalization,
                self._inside(number),
                self._statistics(number),
                self._written(number),
            )
            for number in numbers
        ]
        self._run(tasks, numbers, "writing the store" if progress else None)

    def _is_written(self, number: int) -> bool:
        """Whether a shard is on the disk as it was noted; after a loss of power a note may outlive its file."""
        noted = recall(self._written(number))
        if noted is None:
            return False
        files: Files = {name: (size, digest) for name, (size, digest) in noted.items()}
        return all(
            (self.staging / GROUP / name).is_file() and digest_of(self.staging / GROUP / name) == listed
            for name, listed in files.items()
        )

    def written(self) -> Files:
        """Size and sum of every shard's file, by its path in the group."""
        files: Files = {}
        for number in range(len(self.layout.shards)):
            noted = json.loads(self._written(number).read_text())
            files |= {name: (size, digest) for name, (size, digest) in noted.items()}
        return files


def _check_names(series: xr.Dataset) -> None:
    """Refuse names that are no names of files."""
    for name in series.variables:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", str(name)):
            raise StforecastError(
                ErrorKind.PATH_ESCAPE,
                f"{str(name)!r} cannot be a name in a store: letters, digits and _ . + - can; rename it",
            )


def _methods(series: xr.Dataset, method: str | Mapping[str, str]) -> dict[str, str]:
    names = [str(name) for name in series.data_vars]
    methods = (
        dict.fromkeys(names, method) if isinstance(method, str) else dict.fromkeys(names, "z-score") | dict(method)
    )
    unknown = sorted(set(methods) - set(names))
    if unknown:
        raise StforecastError(
            ErrorKind.VAR_MISSING, f"a method is given for {', '.join(unknown)}, but the series has {', '.join(names)}"
        )
    for name, chosen in methods.items():
        if chosen not in METHODS:
            raise StforecastError(
                ErrorKind.ARGUMENT, f"unknown method {chosen!r} for {name}; there are {', '.join(METHODS)}"
            )
    return methods


def _identity(series: xr.Dataset) -> Any:
    """What tells the values of a series from those of another with the same labels, if it can be had cheaply.

    Files tell it by their sizes and times of change, values in memory by their sum. Nothing tells it of lazy values of
    unknown origin.
    """
    files = series.encoding.get("source_files")
    if files:
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in map(Path, files)]
    if any(variable.chunks is not None for variable in series.data_vars.values()):
        return None
    return {str(name): _sum_of(variable.to_numpy()) for name, variable in series.data_vars.items()}


def _sum_of(values: Values) -> str:
    plain_values = values.astype(str) if values.dtype.kind == "O" else values
    return sha256(np.ascontiguousarray(plain_values).tobytes())


def _check_part(part: Part | None, identity: Any) -> None:
    if part is None:
        return
    if not 1 <= part[0] <= part[1]:
        raise StforecastError(ErrorKind.ARGUMENT, f"part {part[0]}/{part[1]} is none; parts are 1/n to n/n, e.g. 1/8")
    if identity is None:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "parts of a build need data that each process can tell to be the same: open them with open_dataset, or "
            "load them",
        )


def _check_target(path: Path, series: xr.Dataset, *, overwrite: bool) -> int:
    """The bytes that a store may need, once its place is found to be free and large enough."""
    if path.exists() and not is_store(path):
        raise StforecastError(
            ErrorKind.OUTPUT_EXISTS, f"{path} is there and is not a store that stforecast prepared; choose another path"
        )
    if path.exists() and not overwrite:
        raise StforecastError(
            ErrorKind.OUTPUT_EXISTS, f"{path} is there; pass overwrite=True (--overwrite) to replace it"
        )
    return check_space(path, 4 * sum(variable.size for variable in series.data_vars.values()))


def check_space(path: Path, size: int) -> int:
    """The bytes that a store of so many raw ones may need, if the disk has them.

    Raises:
        StforecastError: DISK_FULL, naming what is needed and what is free; PERMISSION if the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise StforecastError(
            ErrorKind.PERMISSION, f"{path.parent} cannot be made by this user; choose another place"
        ) from error
    # Normalized weather hardly compresses, so the raw size and a tenth is what a store may need.
    needed, free = int(1.1 * size), shutil.disk_usage(path.parent).free
    if free < needed:
        raise StforecastError(
            ErrorKind.DISK_FULL, f"{path} may need {needed:,} bytes but {free:,} are free in {path.parent.resolve()}"
        )
    return needed


@contextmanager
def _nothing() -> Iterator[None]:
    """No lock: the parts of a build write different files, or the same bytes."""
    yield


@contextmanager
def _staging(path: Path, *, keep: bool, needed: int) -> Iterator[Path]:
    """Where a store is built; an error clears it, an interruption leaves it for the next call to go on with."""
    staging = staging_of(path)
    if keep:
        # Other parts may still be at work on theirs.
        yield staging
        return
    with errors_named(path, staging, needed):
        yield staging


@contextmanager
def errors_named(path: Path, staging: Path, needed: int) -> Iterator[None]:
    """Clears what was staged when something fails, and says what the operating system's errors mean for the store."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise unwritten(error, path, needed=needed) from error
    except MemoryError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise StforecastError(
            ErrorKind.MEMORY_BUDGET,
            f"there is too little memory: {path} was not written and what was there before is intact. Each thread "
            "holds a shard of every variable while it writes; use fewer, e.g. dask.config.set(num_workers=1)",
        ) from error
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _leave_group_alone(staging: Path) -> None:
    """Clear the notes, and everything that a process that died left among them or, half-written, in the group."""
    # The recipe first: without it a build that dies here begins anew.
    for entry in sorted(staging.iterdir(), key=lambda entry: entry.name != "recipe.json"):
        if entry.name == GROUP:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    # Zarr writes a file under this name beside its place and renames it.
    for half in (staging / GROUP).rglob("*.partial"):
        half.unlink()


def _cut(part: slice, train: slice) -> slice:
    """The rows of a shard, counted from its start, that lie in the training rows."""
    first = min(max(train.start - part.start, 0), frames_in(part))
    return slice(first, max(min(train.stop - part.start, frames_in(part)), first))


def _without_nan(series: xr.Dataset, *, progress: bool) -> xr.Dataset:
    """The series without the frames that have a NaN in any variable."""
    shards = Layout.of(series).shards
    flags = run_tasks(
        [functools.partial(_whole_frames, series.isel(time=rows)) for rows in shards],
        "looking for NaN" if progress else None,
    )
    whole = np.concatenate(flags)
    if not whole.any():
        raise StforecastError(ErrorKind.NAN, "every frame has a NaN, so none is left; mend the data")
    return series if whole.all() else series.isel(time=np.flatnonzero(whole))


def _whole_frames(block: xr.Dataset) -> Values:
    loaded = block.compute(scheduler="synchronous")
    whole: Values = np.logical_and.reduce(
        [
            ~np.isnan(variable.to_numpy()).any(axis=tuple(range(1, variable.ndim)))
            for variable in loaded.data_vars.values()
        ]
    )
    return whole


def _store_attrs(series: xr.Dataset, split: Split, step: np.timedelta64) -> dict[str, Any]:
    times = series["time"].to_numpy()
    train = split.part_rows(times, "train")
    return {
        "Conventions": "CF-1.11",
        "stforecast_store_version": STORE_VERSION,
        "split": split.to_json(),
        "statistics_period": json.dumps([show_time(times[train.start]), show_time(times[train.stop - 1])]),
        "step_seconds": int(step / np.timedelta64(1, "s")),
        "gaps": len(find_gaps(times, step)),
    }


def _note_shard_statistics(
    block: xr.Dataset, ahead: int, methods: dict[str, str], step: np.timedelta64, note: Path
) -> None:
    """Note the moments of a shard's training frames, and their sum; with `ahead`, one frame stands before them."""
    follows = np.diff(block["time"].to_numpy()) == step
    moments: dict[str, dict[str, Any]] = {}
    sums = {}
    for name in block.data_vars:
        method = methods[str(name)]
        values = _loaded(block[name], method)
        sums[str(name)] = _quick_sum_of(values[ahead:])
        kinds = moments[str(name)] = {}
        kinds["values"] = Moments.of(observed(method, values[ahead:])).to_attrs()
        if method == "tendency" and follows.any():
            changes = values[1:][follows].astype(np.float64) - values[:-1][follows]
            kinds["changes"] = Moments.of(changes).to_attrs()
    # After a loss of power it is taken anew: to wait for the disk at each would take longer.
    remember(note, {"moments": moments, "sums": sums}, durable=False)


def _loaded(variable: xr.DataArray, method: str) -> Values:
    """The values of a variable, finite and in their range."""
    # `load` would leave the values in the task, and with it in memory until the last task is done.
    loaded = variable.compute(scheduler="synchronous")
    check_finite(loaded)
    check_range(loaded, counts=method == "log1p")
    return loaded.to_numpy()


def _quick_sum_of(values: Values) -> int:
    """A sum that tells values that changed by themselves from what they were, at a third of the cost of SHA-256."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def _write_one_shard(
    block: xr.Dataset,
    group: Path,
    number: int,
    layout: Layout,
    normalization: Normalization,
    train: slice,
    statistics: Path,
    note: Path,
) -> None:
    """Normalize one shard's frames, write them as whole shards, read them back and note their sums."""
    known = (recall(statistics) or {"sums": {}})["sums"]
    files: Files = {}
    for name, variable in block.data_vars.items():
        scaling = normalization.variables[str(name)]
        values = _loaded(variable, scaling.method)
        if str(name) in known and _quick_sum_of(values[train]) != known[str(name)]:
            times = variable["time"].to_numpy()[train]
            raise StforecastError(
                ErrorKind.INPUT_CHANGED,
                f"variable {name} between {show_time(times[0])} and {show_time(times[-1])} is not what it was when its "
                "statistics were taken; wait until the data stand still, then prepare again",
            )
        file = shard_file(variable, str(name), number)
        files[file] = write_shard(group / file, scaling.apply(values), layout.chunk, layout.shard)
    # A loss of power may leave the note without its files or the reverse: the next build compares their sums.
    remember(note, files, durable=False)
