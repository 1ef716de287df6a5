"""Scheduled forecasts of generated weather and traffic that reach up to now: `make operate`."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from rich.console import Console

import stforecast as stf
from stforecast.operations.cycles import Clock, Cycle
from stforecast.operations.pipeline import Pipeline, read_pipelines
from stforecast.sources.slots import slots_of
from stforecast.time_axis import show_time

FOLDER = Path("data/operate")
HERE = Path(__file__).parent
# Small networks and one pass over the data: this shows how runs go, not how good forecasts can be.
NETWORK = stf.NetworkConfig(hidden_spatial=4, hidden_temporal=16, spatial_layers=4, temporal_layers=2, drop_path=0.0)
TRAINING = stf.TrainingConfig(epochs=1, batch_size=16, learning_rate=2e-3)
# Frames that are delivered one by one; those before them are in the store from the start.
DELIVERED = 5


def main() -> None:
    """Set both pipelines up, deliver frames with and without faults, run, and say what came of it."""
    console = Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    weather, traffic = HERE / "weather.yaml", HERE / "traffic.yaml"

    console.rule("weather: samples, store and model")
    stf.write_sample("weather", FOLDER / "raw" / "weather", years=1)
    series = stf.open_dataset(FOLDER / "raw" / "weather", variables=["t2m"])
    (pipeline,) = read_pipelines(weather)
    frames = set_up(pipeline, up_to_now(series, pipeline))
    deliver(pipeline, frames, 0)
    run("run", weather, "--init", init_of(frames, 0), says="all is there")
    run("run", weather, "--init", init_of(frames, 0), says="the same again")
    run("run", weather, "--init", init_of(frames, 1), "--deadline", "0s", says="its frame does not come")
    cut = deliver(pipeline, frames, 2)
    cut.write_bytes(cut.read_bytes()[:1000])
    run("run", weather, "--init", init_of(frames, 2), "--deadline", "0s", says="its file is damaged")
    for row in (1, 2, 3, 4):
        deliver(pipeline, frames, row)
    run("run", weather, "--catch-up", "2", says="all came; the last two init times up to now")

    console.rule("traffic: samples, store and model")
    stf.write_sample("traffic", FOLDER / "raw" / "traffic", periods=1, days=30)
    series = stf.open_dataset(FOLDER / "raw" / "traffic")
    (pipeline,) = read_pipelines(traffic)
    frames = set_up(pipeline, up_to_now(series, pipeline))
    for row in range(DELIVERED):
        deliver(pipeline, frames, row)
    run("run", traffic, "--catch-up", str(DELIVERED), says="five half hours at once")
    for file in (weather, traffic):
        run("status", file, says="how it stands")
    run("schedule", weather, traffic, "--dry-run", says="what the clock would start")

    console.rule("the archive, as readers see it")
    opened = stf.open_forecasts(read_pipelines(weather)[0].output)
    print(opened[["t2m"]])
    print("map:", max((FOLDER / "weather" / "forecasts").glob("latest/maps/*.png")))


def up_to_now(series: xr.Dataset, pipeline: Pipeline) -> xr.Dataset:
    """A series moved by whole weeks, the last frame being the one that is due now."""
    cycle = Cycle(pipeline.cycle, pipeline.input.time_zone)
    due = cycle.due(Clock().now(), pipeline.input.arrives_after)
    times = series["time"].to_numpy()
    weeks = -((times[-1] - due) // np.timedelta64(7, "D"))
    moved = series.assign_coords(time=("time", times + weeks * np.timedelta64(7, "D"), series["time"].attrs))
    return moved.isel(time=moved["time"].to_numpy() <= due)


def set_up(pipeline: Pipeline, series: xr.Dataset) -> xr.Dataset:
    """The frames that are going to be delivered; the store and the model are made of those before."""
    known = series.isel(time=slice(-DELIVERED)).load()
    split = stf.Split.by_fraction(known["time"].to_numpy())
    stf.prepare(known, pipeline.store, split, allow_gaps=True)
    fitted = stf.fit(pipeline.store, history=4, horizon=8, network=NETWORK, training=TRAINING, progress=True)
    fitted.save(pipeline.model)
    Path(pipeline.input.path).mkdir(parents=True)
    return series.isel(time=slice(-DELIVERED, None)).load()


def deliver(pipeline: Pipeline, frames: xr.Dataset, row: int) -> Path:
    """The file of one frame, put into its place by a rename, as a provider should."""
    frame, folder = frames.isel(time=[row]), Path(pipeline.input.path)
    if "inflow" not in frame:
        file = folder / f"t2m_{row}.nc"
        temporary = file.with_name(f".{file.name}")
        frame.to_netcdf(temporary)
        return temporary.replace(file)
    # As TaxiBJ's own: a date and the number of the half hour.
    file = folder / f"BJ_{row}.h5"
    temporary = file.with_name(f".{file.name}")
    with h5py.File(temporary, "w") as content:
        content["data"] = np.stack([frame["inflow"].to_numpy(), frame["outflow"].to_numpy()], axis=1)
        content["date"] = slots_of(frame["time"].to_numpy())
    return temporary.replace(file)


def init_of(frames: xr.Dataset, row: int) -> str:
    """The init time of a frame, as the command line takes it."""
    return show_time(frames["time"].to_numpy()[row])


def run(*arguments: object, says: str) -> None:
    """Show a command, what it says and how it ends."""
    words = [str(word.relative_to(Path.cwd())) if isinstance(word, Path) else str(word) for word in arguments]
    print(f"\n# {says}\n$ stforecast {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "stforecast", *words], check=False).returncode  # noqa: S603
    print(f"-> exit status {status}", flush=True)


if __name__ == "__main__":
    main()
