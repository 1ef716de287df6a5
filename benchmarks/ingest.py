"""Raw netCDF to normalized Zarr by several ways, each in a process of its own, interleaved: Markdown tables.

`prepare` takes the statistics in a first pass, verifies what it wrote and flushes it to the disk; `to_zarr` takes the
statistics too and does neither of the others; reading and normalizing is one pass with statistics that are known.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import netCDF4
import numpy as np
import numpy.typing as npt
import psutil

FILES = "raw_*.nc"
SHARD_BYTES = 16 * 2**20
MIB = 2**20

# Known beforehand where statistics are not asked for; the values do not matter, the arithmetic does.
LOCATION, SCALE = np.float32(280.0), np.float32(12.0)


@dataclass(frozen=True)
class Case:
    """A raw series on the disk.

    Attributes:
        name: what the tables call it.
        shape: (y, x) of a frame.
        hours: between frames.
        frames: in all files together.
        variables: their names.
    """

    name: str
    shape: tuple[int, int]
    hours: int
    frames: int
    variables: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What the values take as float32."""
        return 4 * self.frames * len(self.variables) * self.shape[0] * self.shape[1]

    def write(self, folder: Path) -> None:
        """Some files of successive frames, compressed as providers do: waves with noise that hardly compresses."""
        # A leap year of hourly 5.625-degree frames a file.
        per_file = max(8784 * 32 * 64 // (self.shape[0] * self.shape[1]), 1)
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((97, *self.shape), np.float32)
        latitude, longitude = np.linspace(-87, 87, self.shape[0]), np.arange(self.shape[1]) * 360 / self.shape[1]
        for first in range(0, self.frames, per_file):
            frames = range(first, min(first + per_file, self.frames))
            with netCDF4.Dataset(folder / f"raw_{first:08d}.nc", "w") as file:
                self._write_axes(file, frames, latitude, longitude)
                for number, name in enumerate(self.variables):
                    chunks = (min(24, len(frames)), *self.shape)
                    variable = file.createVariable(
                        name, "f4", ("time", "latitude", "longitude"), zlib=True, complevel=1, chunksizes=chunks
                    )
                    variable.units = "K"
                    for some in range(0, len(frames), 24):
                        rows = np.arange(frames[some], min(frames[some] + 24, frames.stop))
                        phase = np.deg2rad(longitude) - 0.05 * rows[:, None, None] + number
                        wave = 12 * np.sin(3 * phase) * np.cos(np.deg2rad(latitude))[:, None]
                        variable[some : some + len(rows)] = (280 + wave + noise[rows * 31 % 97]).astype(np.float32)

    def _write_axes(
        self,
        file: netCDF4.Dataset,
        frames: range,
        latitude: npt.NDArray[np.float64],
        longitude: npt.NDArray[np.float64],
    ) -> None:
        units = ("hours since 1900-01-01", "degrees_north", "degrees_east")
        hours = 1_016_832 + self.hours * np.arange(frames.start, frames.stop)  # from 2016
        for name, values, unit in zip(
            ("time", "latitude", "longitude"), (hours, latitude, longitude), units, strict=True
        ):
            file.createDimension(name, len(values))
            axis = file.createVariable(name, "i4" if name == "time" else "f8", (name,))
            axis.units, axis[:] = unit, values


def slabs(files: list[Path]) -> Iterator[npt.NDArray[np.float32]]:
    """The values of all files and variables, a shard's frames at a time."""
    for path in files:
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            for variable in file.variables.values():
                if variable.ndim != 3:
                    continue
                length = max(SHARD_BYTES // (4 * variable.shape[1] * variable.shape[2]), 1)
                for first in range(0, len(variable), length):
                    yield variable[first : first + length]


def read_and_normalize(raw: Path, _: Path) -> None:
    """The least that has to be done: each value is read once and normalized; nothing is written."""
    for slab in slabs(sorted(raw.glob(FILES))):
        slab -= LOCATION
        slab /= SCALE


def prepare(raw: Path, out: Path) -> None:
    """Ours, with everything that it checks."""
    import stforecast as stf

    series = stf.open_dataset(raw / FILES)
    stf.prepare(series, out / "ours.zarr", stf.Split.by_fraction(series["time"].to_numpy()))


def xarray_to_zarr(raw: Path, out: Path) -> None:
    """What one writes by hand: statistics of the first 70 %, then to_zarr, all on dask's threads, in chunks of 24."""
    import dask
    import xarray as xr

    series = xr.open_mfdataset(sorted(raw.glob(FILES)), chunks={"time": 24})
    train = series.isel(time=slice(0, int(0.7 * series.sizes["time"])))
    location, scale = dask.compute(train.mean(), train.std())
    normalized = ((series - location) / scale).chunk(time=24).drop_encoding()
    normalized.to_zarr(out / "theirs.zarr", zarr_format=3, consolidated=False)


def all_but_a_day(raw: Path, out: Path) -> None:
    """A store of all frames but those of the last day."""
    import stforecast as stf

    series = stf.open_dataset(raw / FILES)
    series = series.isel(time=slice(len(series["time"]) - frames_a_day(series)))
    stf.prepare(series, out / "ours.zarr", stf.Split.by_fraction(series["time"].to_numpy()))


def append_a_day(last_day: "xr.Dataset", out: Path) -> None:  # noqa: F821  # imported in the process that is measured
    """The last day's frames, which lie in memory, put into the store that lacks them."""
    import stforecast as stf

    stf.append(last_day, out / "ours.zarr")


def frames_a_day(series: "xr.Dataset") -> int:  # noqa: F821
    times = series["time"].to_numpy()
    return int(np.timedelta64(1, "D") / (times[1] - times[0]))


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "read + normalise": read_and_normalize,
    "stforecast.prepare": prepare,
    "xarray to_zarr, dask threads, chunks of 24": xarray_to_zarr,
}
APPEND, BEFORE_APPEND = "stforecast.append, a day", "all but a day"


@dataclass(frozen=True)
class Cost:
    """What one run took, without its imports: seconds, CPU seconds, and bytes of memory at its peak above the start."""

    seconds: float
    cpu: float
    peak: float


def peak_memory() -> int:
    """The most bytes that this process has held; ru_maxrss would begin with what the parent held when it forked."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children: those that ended, and the one that tries files first."""
    spent = psutil.Process().cpu_times()
    running = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))
    return float(sum(spent[:4])) + running


def run_child(way: str, folder: Path, out: Path | None) -> None:
    """Run one way in this process and print its costs as JSON."""
    for module in ("dask.array", "distributed", "xarray", "zarr", "stforecast.sources", "stforecast.store"):
        importlib.import_module(module)
    if way == BEFORE_APPEND:
        assert out is not None
        all_but_a_day(folder, out)
        return
    out = Path(tempfile.mkdtemp(dir=folder))
    act = ready_to_append(folder, out) if way == APPEND else lambda: WAYS[way](folder, out)
    before, memory = cpu_seconds(), peak_memory()
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    cpu, memory = cpu_seconds() - before, peak_memory() - memory
    shutil.rmtree(out)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": memory}))


def ready_to_append(folder: Path, out: Path) -> Callable[[], None]:
    """What appends a day, its store made by another process so that it does not count."""
    import stforecast as stf

    subprocess.run(  # noqa: S603  # our own
        [sys.executable, __file__, "--child", BEFORE_APPEND, "--folder", str(folder), "--out", str(out)], check=True
    )
    series = stf.open_dataset(folder / FILES)
    last_day = series.isel(time=slice(-frames_a_day(series), None)).load()
    return lambda: append_a_day(last_day, out)


def measure(way: str, folder: Path) -> Cost:
    """The costs of one way in a process of its own, with the raw files in the page cache."""
    for file in folder.glob(FILES):
        file.read_bytes()
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603  # our own
    return Cost(**json.loads(printed.splitlines()[-1]))


def interleaved(folder: Path, repetitions: int) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {way: [] for way in [*WAYS, APPEND]}
    for _ in range(repetitions):
        for way, costs in found.items():
            costs.append(measure(way, folder))
    return found


def table(case: Case, found: dict[str, list[Cost]]) -> str:
    """Medians and spreads, and ratios to reading and normalizing."""
    lines = [
        f"{case.name}: {case.bytes / 1e6:,.0f} MB as float32, medians of {len(next(iter(found.values())))} interleaved "
        f"runs, {os.cpu_count()} cores",
        "",
        "| way | seconds | lowest to highest | CPU seconds | peak MiB | of read + normalise, seconds | CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    base = next(iter(found.values()))
    for way, costs in found.items():
        seconds, cpu = [cost.seconds for cost in costs], [cost.cpu for cost in costs]
        lines.append(
            f"| {way} | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {median(cpu):.2f} | "
            f"{median(cost.peak for cost in costs) / MIB:.0f} | "
            f"{median(seconds) / median(cost.seconds for cost in base):.2f} | "
            f"{median(cpu) / median(cost.cpu for cost in base):.2f} |"
        )
    return "\n".join(lines)


def growth(case: Case, folder: Path) -> str:
    """Peak memory of each way for the data of a case and for ten times as many frames."""
    larger = Case(case.name, case.shape, case.hours, 10 * case.frames, case.variables)
    peaks: list[dict[str, float]] = []
    for some in (case, larger):
        raw = folder / f"growth_{some.frames}"
        raw.mkdir()
        some.write(raw)
        found = interleaved(raw, 1)
        peaks.append({way: costs[0].peak for way, costs in found.items()})
        shutil.rmtree(raw)
    lines = [f"Peak memory, {case.bytes / 1e6:,.0f} and {larger.bytes / 1e6:,.0f} MB", ""]
    lines += ["| way | MiB at 1x | MiB at 10x | ratio |", "|---|---|---|---|"]
    for way in [*WAYS, APPEND]:
        one, ten = (some[way] / MIB for some in peaks)
        lines.append(f"| {way} | {one:.0f} | {ten:.0f} | {ten / one:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and one repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--frames", type=int, default=1460, help="frames of the 1.5-degree case")
    parser.add_argument("--folder", type=Path, help="where to put some gigabytes; a temporary folder by default")
    parser.add_argument("--child", choices=[*WAYS, APPEND, BEFORE_APPEND], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.folder, options.out)
        return
    share, repetitions = (10, 1) if options.quick else (1, options.repetitions)
    variables = ("t2m", "u10", "v10", "z500", "t850", "q700")
    cases = (
        Case("5.625 degrees, hourly, 2 years", (32, 64), 1, 17_544 // share, ("t2m",)),
        Case("1.5 degrees, 6-hourly, 6 variables", (121, 240), 6, options.frames // share, variables),
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for number, case in enumerate(cases):
            raw = Path(temporary) / str(number)
            raw.mkdir()
            case.write(raw)
            print(table(case, interleaved(raw, repetitions)), end="\n\n", flush=True)
            shutil.rmtree(raw)
        print(growth(cases[0], Path(temporary)))


if __name__ == "__main__":
    main()
