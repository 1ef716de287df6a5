"""What single steps of building, opening and reading a store take, interleaved in one process: a Markdown table."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import numcodecs
import numpy as np
import zarr

import stforecast as stf
from stforecast.files import sha256
from stforecast.grid import check_series
from stforecast.store.shards import ZSTD_LEVEL, write_shard
from stforecast.store.versions import remember
from stforecast.windows import StoredFrames

CELLS, CHUNK, SHARD = (121, 240), 2, 144


def by_zarr(folder: Path, frames: np.ndarray) -> Callable[[], None]:
    """A shard written by zarr, read back, compared and summed."""
    array = zarr.create_array(
        folder / "zarr",
        shape=frames.shape,
        chunks=(CHUNK, *CELLS),
        shards=frames.shape,
        dtype="float32",
        compressors=[zarr.codecs.ZstdCodec(level=ZSTD_LEVEL, checksum=True)],
        config={"write_empty_chunks": True},
    )

    def write() -> None:
        array[:] = frames
        assert np.array_equal(np.asarray(array[:]), frames)
        sha256(folder.joinpath("zarr", "c", "0", "0", "0").read_bytes())

    return write


def steps(folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, by name; each named alternative stands before ours."""
    frames = np.random.default_rng(0).standard_normal((SHARD, *CELLS)).astype(np.float32)
    stf.write_sample("weather", folder / "raw", years=2, step_hours=1)
    raw = stf.open_dataset(folder / "raw", variables=["t2m"])
    stf.prepare(raw, folder / "t2m.zarr", stf.Split.by_fraction(raw["time"].to_numpy()))
    stored = StoredFrames.open((folder / "t2m.zarr" / ".current").resolve(), ["t2m"])
    array, rows, target = stored.arrays[0], slice(0, 2048), np.empty((2048, *stored.shape[1:]), np.float32)
    decoded = np.asarray(array[rows])
    chunks = [
        [numcodecs.Zstd(ZSTD_LEVEL, checksum).encode(frames[first : first + CHUNK]) for first in range(0, SHARD, CHUNK)]
        for checksum in (False, True)
    ]
    return {
        "a shard of 16.7 MB by zarr: written, read back, summed": by_zarr(folder, frames),
        "**the same by stforecast**": lambda: write_shard(folder / "ours", frames, CHUNK, SHARD),
        "its SHA-256 alone": lambda: sha256(frames.tobytes()),
        "its chunks decoded without checksums": lambda: [numcodecs.Zstd().decode(chunk) for chunk in chunks[0]],
        "**with checksums**": lambda: [numcodecs.Zstd().decode(chunk) for chunk in chunks[1]],
        "2,048 frames (16.8 MB) read from a store by zarr": lambda: np.asarray(array[rows]),
        "**the same by `StoredFrames`**": lambda: stored.read_into(target, rows),
        "its look for NaN alone": lambda: np.isfinite(decoded).all(),
        "a note, flushed to the disk": lambda: remember(folder / "note", {"moments": 1.0}),
        "**a note, not flushed**": lambda: remember(folder / "note", {"moments": 1.0}, durable=False),
        "`check_series`, two years of hours": lambda: check_series(raw),
        "`open_store` of them": lambda: stf.open_store(folder / "t2m.zarr"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=21)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[tuple[float, float]]] = {}
        measured = steps(Path(folder))
        for _ in range(options.repetitions + 1):
            for name, step in measured.items():
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                found.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"Medians of {options.repetitions} interleaved repetitions after one that does not count\n")
    print("| step | milliseconds | lowest | CPU milliseconds |\n|---|---|---|---|")
    for name, times in found.items():
        wall, cpu = zip(*times[1:], strict=True)
        print(f"| {name} | {1e3 * median(wall):.1f} | {1e3 * min(wall):.1f} | {1e3 * median(cpu):.1f} |")


if __name__ == "__main__":
    main()
