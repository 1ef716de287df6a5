"""The call that people come for: a labelled dataset in, a forecast out, in memory, lazily, or onto the disk."""

import functools
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.delayed import delayed

from stforecast.channels import Frames
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import confirm, make_durable, replacing, sha256, unwritten
from stforecast.forecaster import OF_ANOTHER_KIND, Forecaster
from stforecast.forecasts import chunk_files, open_forecast, open_group, write_forecast, write_region, write_template
from stforecast.guards import FLAG_ATTRS, Refuse, check_refuse
from stforecast.intervals import BOUNDS, bound_attrs, bound_name
from stforecast.models.inference import Backend
from stforecast.planning import Plan
from stforecast.pretrained import load_model, packaged_model, packaged_models
from stforecast.store.tasks import run_tasks
from stforecast.store.versions import lock, recall, remember, staging_of
from stforecast.time_axis import show_time

# What a value of a forecast takes while it is made: normalized, in physical units, and copies of both.
_BYTES_A_VALUE = 20
_MEMORY_LIMIT = 2**28

Block = tuple[slice, tuple[slice, ...]]


def predict(
    dataset: xr.Dataset,
    model: Forecaster | str | Path | None = None,
    *,
    init_times: npt.ArrayLike | None = None,
    horizon: int | None = None,
    output: str | Path | None = None,
    backend: Backend | None = None,
    interval: float | None = None,
    refuse: Refuse = "impossible",
    memory_limit: int = _MEMORY_LIMIT,
    progress: bool = False,
) -> xr.Dataset:
    """The forecast (init_time, lead_time, [level,] Y, X) of a labelled dataset in physical units.

    Names of variables and dimensions, their order, latitude direction, longitude convention, units, float type and
    attributes are those of the dataset. The coordinate valid_time (init_time, lead_time) is what is forecast, and
    quality_flag (init_time, lead_time) says what is wrong with it, 0 for nothing; see `Forecaster.predict`.

    A dataset in memory gives a forecast in memory. One backed by dask, as `open_store` gives it, gives one backed by
    dask: all but the values is checked at once, and blocks are made when they are asked for, each within the memory
    limit, on the caller's dask.distributed client where there is one. What is asked for twice is made twice, so load or
    write what is used again.

    With `output` the forecast is written block by block, and the file is there whole or not at all. A call that was
    killed is gone on with by the same call: blocks that were made of the same frames are kept, and a rollout goes on
    where it was.

    Args:
        dataset: (time, [level,] Y, X) with units, and the model's `history` frames at least. There may be more
            variables, levels and cells than the model knows; variables may have other names that are in use for them
            and other units. NaN in a frame that a forecast sees is refused.
        model: a Forecaster, the folder that one was saved in, or the name of a packaged model; by default the packaged
            model that fits the dataset.
        init_times: the last frame seen by each forecast; the last of the dataset by default.
        horizon: how many steps to forecast; as the model was fitted by default. What is beyond is a rollout.
        output: a .zarr or .nc path to write.
        backend: what computes the network; chosen by the number of forecasts by default, see `Forecaster.predict`.
        interval: the share of truth, as 0.9, that is to lie between bounds t2m_lower and t2m_upper beside t2m, and
            likewise for other variables; see `Forecaster.predict`. No bounds without it.
        refuse: which forecasts are refused: "impossible" ones, with values that are not finite or cannot be; those that
            show "drift" besides; or "nothing", and the flags tell.
        memory_limit: bytes that a block may take while it is made; of lazy and written forecasts.
        progress: whether to draw a progress bar while blocks are written.

    Raises:
        StforecastError: ARGUMENT if no packaged model fits, saying for each why; OUTPUT_EXISTS; STORE_BUSY if another
            process writes the same output; otherwise what `Forecaster.load` and `Forecaster.predict` refuse.
    """
    if memory_limit < 1:
        raise StforecastError(ErrorKind.ARGUMENT, f"memory_limit must be at least 1 byte, not {memory_limit}")
    check_refuse(refuse)
    if output is not None:
        _check_output(Path(output))

    forecaster = forecaster_for(dataset, model, init_times=init_times)
    plan = forecaster.plan(dataset, init_times=init_times, horizon=horizon, backend=backend, interval=interval)
    if output is not None:
        return _written(plan, Path(output), refuse, memory_limit, progress)
    if any(variable.chunks is not None for variable in plan.alignment.found.data_vars.values()):
        return _lazily(plan, refuse, memory_limit)
    return plan.whole(refuse)


def forecaster_for(
    dataset: xr.Dataset,
    model: Forecaster | str | Path | None = None,
    *,
    init_times: npt.ArrayLike | None = None,
) -> Forecaster:
    """The forecaster that `predict` uses: the given one, one by its folder or name, or the packaged one that fits.

    Args:
        dataset: (time, [level,] Y, X), what is to be forecast.
        model: see `predict`.
        init_times: when forecasts are to begin; the last time of the dataset by default.

    Raises:
        StforecastError: ARGUMENT if no packaged model is of such data, saying for each why, or several are; what
            `Forecaster.plan` refuses if one is; FILE_MISSING for an unknown name; what `Forecaster.load` refuses.
    """
    if isinstance(model, Forecaster):
        return model
    if model is not None:
        return load_model(model)
    reasons, fitting = {}, []
    for name in packaged_models():
        try:
            packaged_model(name).plan(dataset, init_times=init_times)
            fitting.append(name)
        except StforecastError as error:
            if error.kind not in OF_ANOTHER_KIND:
                # It is of such data; what is amiss is in these.
                raise StforecastError(error.kind, f"{name}: {error}") from error
            reasons[name] = error
    if len(fitting) == 1:
        return packaged_model(fitting[0])
    if fitting:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"several packaged models fit: {', '.join(fitting)}; name one of them with model="
        )
    why = "".join(f"\n  {name}: {error}" for name, error in reasons.items())
    raise StforecastError(
        ErrorKind.ARGUMENT,
        f"no packaged model fits the dataset:{why}\nfit one to it: model = stforecast.fit(dataset, preset='weather'), "
        "or preset='traffic', then stforecast.predict(dataset, model)",
    )


def _blocks(plan: Plan, memory_limit: int) -> list[Block]:
    """Init times, and for each of these parts their lead times in parts, that take no more memory than they may."""
    bounds = 0 if plan.interval is None else len(BOUNDS)
    values = memory_limit // (_BYTES_A_VALUE * (1 + bounds) * plan.frame_size)
    inits = max(values // plan.horizon, 1)
    at_once = plan.forecaster.frames_per_call
    leads = max(values // inits // at_once, 1) * at_once
    parts = tuple(slice(row, min(row + leads, plan.horizon)) for row in range(0, plan.horizon, leads))
    total = len(plan.init_times)
    return [(slice(row, min(row + inits, total)), parts) for row in range(0, total, inits)]


def _loaded(plan: Plan, inits: slice, leads: slice) -> xr.Dataset:
    """The frames that a part of a forecast sees, read by the thread that makes it."""
    # Told to the call: dask's configuration is the whole process's, and other threads change it at the same time.
    return plan.block(inits, leads).load(scheduler="synchronous")


# ---- lazily


def _lazily(plan: Plan, refuse: Refuse, memory_limit: int) -> xr.Dataset:
    """The forecast, backed by dask, each block of which is made when it is asked for."""
    blocks = _blocks(plan, memory_limit)
    # As one node of the graph it goes to each worker once; a partial is opaque, so dask does not look into it.
    whole = delayed(functools.partial(_itself, plan), pure=False)()
    made: list[list[Any]] = []
    for inits, parts in blocks:
        made.append([])
        before = None
        for leads in parts:
            before = delayed(functools.partial(_made, inits=inits, leads=leads, refuse=refuse), pure=False)(
                whole, before
            )
            made[-1].append(before)

    def joined(name: str, template: xr.DataArray) -> xr.Variable:
        rows = [
            da.concatenate(
                [
                    da.from_delayed(
                        delayed(_value_of, pure=False)(part, name),
                        (_length(inits), _length(leads), *template.shape),
                        template.dtype,
                    )
                    for part, leads in zip(row, parts, strict=True)
                ],
                axis=1,
            )
            for row, (inits, parts) in zip(made, blocks, strict=True)
        ]
        return xr.Variable(("init_time", "lead_time", *template.dims), da.concatenate(rows), template.attrs)

    templates = _templates(plan)
    variables = {name: xr.DataArray(joined(name, template)) for name, template in templates.items()}
    flags = joined(_FLAGS, xr.DataArray(np.uint8(0), attrs=FLAG_ATTRS))
    return plan.labelled(variables, flags, plan.init_times, plan.lead_times)


_FLAGS = "quality_flag"
Made = tuple[dict[str, npt.NDArray[Any]], Frames]


def _itself(plan: Plan) -> Plan:
    return plan


def _made(plan: Plan, before: Made | None, *, inits: slice, leads: slice, refuse: Refuse) -> Made:
    """The values of a part of a forecast, by name, and the frames on which it is gone on with."""
    history = None if before is None else before[1]
    forecast, history = plan.forecast(inits, _loaded(plan, inits, leads), leads, history, refuse=refuse)
    return {name: forecast[name].to_numpy() for name in (*map(str, forecast.data_vars), _FLAGS)}, history


def _value_of(made: Made, name: str) -> npt.NDArray[Any]:
    return made[0][name]


def _templates(plan: Plan) -> dict[str, xr.DataArray]:
    """Each variable of the forecast without its times and without values, by the caller's name."""
    templates = {}
    for item in plan.forecaster.channels.variables:
        like = plan.alignment.template(item)
        dtype = like.dtype if np.issubdtype(like.dtype, np.floating) else np.dtype(np.float32)
        empty = xr.DataArray(da.zeros(like.shape, dtype=dtype), dims=like.dims, attrs=like.attrs)
        templates[plan.alignment.names[item.name]] = empty
    if plan.interval is not None:
        of_bounds = {
            bound_name(name, bound): empty.drop_attrs().assign_attrs(
                bound_attrs(name, empty.attrs, bound, plan.interval)
            )
            for bound in BOUNDS
            for name, empty in templates.items()
        }
        templates |= of_bounds
    return templates


def _length(some: slice) -> int:
    return int(some.stop - some.start)


# ---- onto the disk


def _check_output(path: Path) -> None:
    if path.suffix not in (".zarr", ".nc"):
        raise StforecastError(ErrorKind.ARGUMENT, f"forecasts are written as .zarr or .nc, not as {path.name}")
    if path.suffix == ".zarr" and path.exists():
        raise StforecastError(ErrorKind.OUTPUT_EXISTS, f"{path} is there already; choose another name or remove it")


def _written(plan: Plan, path: Path, refuse: Refuse, memory_limit: int, progress: bool) -> xr.Dataset:
    """The forecast as it lies on the disk, lazily."""
    # The network computes one block at a time; another thread reads and writes meanwhile.
    blocks = _blocks(plan, memory_limit // 2)
    staging = staging_of(path)
    try:
        with lock(path):
            _begin(plan, staging, blocks, refuse)
            tasks = [
                functools.partial(_write_block, plan, staging, number, *block, refuse)
                for number, block in enumerate(blocks)
            ]
            named = [f"the forecast from {show_time(plan.init_times[inits][0])} on" for inits, _ in blocks]
            threads = min(2, dask.config.get("num_workers", None) or 2)
            run_tasks(
                tasks, "forecasting" if progress else None, stop=staging / "stopped", blocks=named, threads=threads
            )
            _publish(staging, path)
    except OSError as error:
        raise unwritten(error, path) from error
    return open_forecast(path)


def _begin(plan: Plan, staging: Path, blocks: Sequence[Block], refuse: Refuse) -> None:
    """Make the folder in which a forecast is built, or take up one that is the same forecast begun."""
    templates = _templates(plan)
    described = {name: [str(some.dtype), some.dims, some.shape] for name, some in templates.items()}
    times = [plan.init_times.astype(str).tolist(), plan.lead_times.astype(str).tolist()]
    bounds = [[inits.start, inits.stop, [leads.stop for leads in parts]] for inits, parts in blocks]
    wanted: list[Any] = [plan.forecaster.weights_hash(), described, times, bounds, refuse]
    if plan.interval is not None:
        assert plan.forecaster.calibration is not None
        wanted += [plan.interval, plan.forecaster.calibration.digest()]
    recipe = {"sha256": sha256(json.dumps(wanted).encode())}
    (staging / "stopped").unlink(missing_ok=True)
    if recall(staging / "recipe.json") == recipe:
        return
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    inits, parts = blocks[0]
    chunks = {"init_time": _length(inits), "lead_time": _length(parts[0])}
    sizes = (len(plan.init_times), plan.horizon)

    def spread(template: xr.DataArray) -> xr.Variable:
        empty = da.zeros((*sizes, *template.shape), dtype=template.dtype, chunks=(*chunks.values(), *template.shape))
        return xr.Variable(("init_time", "lead_time", *template.dims), empty, template.attrs)

    variables = {name: xr.DataArray(spread(some)) for name, some in templates.items()}
    flags = spread(xr.DataArray(np.uint8(0), attrs=FLAG_ATTRS))
    forecast = plan.labelled(variables, flags, plan.init_times, plan.lead_times)
    write_template(forecast, staging / _GROUP)
    remember(staging / "recipe.json", recipe)


_GROUP = "forecast.zarr"


def _write_block(plan: Plan, staging: Path, number: int, inits: slice, parts: Sequence[slice], refuse: Refuse) -> None:
    """Make and write the forecasts from some init times, part by part, but for those that are there already."""
    history: Frames | None = None
    for place, leads in enumerate(parts):
        note, state = staging / f"{number}-{place}.json", staging / f"{number}-{place}.npy"
        block = _loaded(plan, inits, leads)
        came = [_sum_of(*(variable.to_numpy() for variable in block.data_vars.values()))]
        came += [] if history is None else [_sum_of(history)]
        there = recall(note)
        if there is not None and there["came"] == came and there["went"] == _sum_of_part(staging, number, place):
            seen = _recalled(state, there["state"])
            if seen is not None:
                history = seen
                continue
        forecast, history = plan.forecast(inits, block, leads, history, refuse=refuse)
        write_region(forecast, staging / _GROUP, {"init_time": inits, "lead_time": leads})
        with replacing(state) as temporary:
            np.save(temporary, history)
        went = _sum_of_part(staging, number, place)
        remember(note, {"came": came, "went": went, "state": _sum_of(history)}, durable=False)


def _sum_of(*values: npt.NDArray[Any]) -> int:
    """A sum that finds whether values are the same; a loss of power and other data are what it is to find."""
    total = 0
    for some in values:
        total = zlib.crc32(np.ascontiguousarray(some).data, total)
    return total


def _sum_of_part(staging: Path, number: int, place: int) -> int:
    """The sum of a part of the forecast as it lies on the disk."""
    total = 0
    for file in chunk_files(staging / _GROUP, number, place):
        total = zlib.crc32(file.read_bytes(), zlib.crc32(str(file.relative_to(staging)).encode(), total))
    return total


def _recalled(file: Path, wanted: int) -> Frames | None:
    """The frames in a file, if they are those that were written there."""
    try:
        frames: Frames = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return frames if _sum_of(frames) == wanted else None


def _publish(staging: Path, path: Path) -> None:
    """Give a forecast that is whole its name."""
    if path.suffix == ".nc":
        write_forecast(open_group(staging / _GROUP, lazily=True), path)
    else:
        make_durable(staging / _GROUP)
        (staging / _GROUP).rename(path)
        confirm(path.parent, path)
    shutil.rmtree(staging, ignore_errors=True)
