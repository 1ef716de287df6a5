"""Rows of the fault catalogue that a store answers: locks, disks, memory, and what is never written into one."""

import errno
import getpass
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from crash import SPLIT, files_of, in_child, shrink_shards, start, wait
from factory import make_city, make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.split import Split
from stforecast.store import append, layout, open_store, prepare, validate
from stforecast.store.versions import check_locking, holder_of, lock, write_manifest


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", layout.CHUNK_BYTES)
    monkeypatch.setattr(layout, "SHARD_BYTES", layout.SHARD_BYTES)
    shrink_shards()


def refused(kind: ErrorKind, match: str, call) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        call()
    assert caught.value.kind == kind


# --- Locks


def test_h08_a_lock_that_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    path, ready = tmp_path / "s.zarr", tmp_path / "ready"

    def hold() -> None:
        with lock(path):
            ready.touch()
            signal.pause()

    child, reads = start(hold)
    while not ready.exists():
        os.sched_yield()
    refused(
        ErrorKind.STORE_BUSY, f"is being written by process {child} on", lambda: prepare(make_series(), path, SPLIT)
    )
    os.kill(child, signal.SIGKILL)
    assert wait(child, reads).how == "killed"
    holder = tmp_path / ".s.zarr.holder"
    assert f"process {child} on" in holder.read_text()
    prepare(make_series(), path, SPLIT)
    assert not holder.exists()


def test_h08_a_dead_process_is_not_said_to_hold_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    dead = wait(*start(os.getpid)).result
    with lock(path):
        # The text of a writer that died, before the one that took its lock over has written its own.
        (tmp_path / ".s.zarr.holder").write_text(f"process {dead} on {socket.gethostname()}")
        refused(ErrorKind.STORE_BUSY, "is being written by another process", lambda: lock(path).__enter__())


def test_h08_who_holds_a_lock_is_told_without_taking_it(tmp_path: Path) -> None:
    path, holder = tmp_path / "s.zarr", tmp_path / ".s.zarr.holder"
    this = f"process {os.getpid()} on {socket.gethostname()}"
    assert holder_of(path) == ""
    with lock(path):
        assert holder_of(path) == this
    assert holder_of(path) == ""
    # What a writer on another machine left is believed: nobody here can tell.
    holder.write_text("process 1 on elsewhere")
    assert holder_of(path) == "process 1 on elsewhere"
    # One that was killed long ago had the number that this process has now.
    holder.write_text(this)
    os.utime(holder, (0, 0))
    assert holder_of(path) == ""


def test_h08_a_killed_process_that_nobody_waited_for_holds_no_lock(tmp_path: Path) -> None:
    path, ready = tmp_path / "s.zarr", tmp_path / "ready"

    def hold() -> None:
        with lock(path):
            ready.touch()
            signal.pause()

    child, reads = start(hold)
    while not ready.exists():
        os.sched_yield()
    assert holder_of(path) == f"process {child} on {socket.gethostname()}"
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert holder_of(path) == ""
    assert wait(child, reads).how == "killed"


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/a /mnt/a nfs4 rw,vers=4.2,local_lock=none 0 0
server:/b /mnt/b nfs rw,vers=3,nolock,local_lock=all 0 0
me@server: /mnt/my\\040files fuse.sshfs rw,user_id=0 0 0
lake /mnt/lustre lustre rw,flock,lazystatfs 0 0
lake /mnt/lustre/noflock lustre rw,lazystatfs 0 0
//server/c /mnt/c cifs rw,nobrl 0 0
tmpfs /mnt/b/memory tmpfs rw 0 0
"""


@pytest.mark.parametrize("folder", ["/data", "/mnt/a", "/mnt/a/deep/er", "/mnt/lustre", "/mnt/b/memory", "/mnt/bb"])
def test_h09_file_systems_that_lock_are_let_through(folder: str) -> None:
    check_locking(Path(folder) / "s.zarr", MOUNTS)


@pytest.mark.parametrize(
    ("folder", "match"),
    [
        ("/mnt/b", "is nfs, mounted at /mnt/b so that locks do not reach other machines"),
        ("/mnt/b/deep", "is nfs, mounted at /mnt/b"),
        ("/mnt/my files", "is fuse.sshfs, mounted at /mnt/my files"),
        ("/mnt/lustre/noflock", "is lustre, mounted at /mnt/lustre/noflock"),
        ("/mnt/c", "s.zarr is cifs.*prepare it on a local disk"),
    ],
)
def test_h09_file_systems_whose_locks_stay_on_one_machine_are_refused(folder: str, match: str) -> None:
    refused(ErrorKind.LOCK_UNSUPPORTED, match, lambda: check_locking(Path(folder) / "s.zarr", MOUNTS))


# --- Disks and memory


@pytest.mark.parametrize("grown", [False, True])
def test_g05_s05_a_disk_that_fills_up_is_named_with_what_is_needed_and_free(tmp_path: Path, grown: bool) -> None:
    path, series = tmp_path / "s.zarr", make_series(60)
    if grown:
        prepare(series.isel(time=slice(50)), path, SPLIT)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def act() -> None:
        os.fsync = full
        append(series.isel(time=slice(50, 60)), path) if grown else prepare(series, path, SPLIT)

    ended = wait(*start(act))
    assert ended.kind == ErrorKind.DISK_FULL
    assert f"the disk is full: {path} was not written and what was there before is intact" in ended.message
    # 60 frames of 96 bytes and a tenth; 10 frames and the shard of 12 that they begin in, and a tenth.
    assert f"it may need {int(1.1 * 96 * (22 if grown else 60)):,} bytes; " in ended.message
    assert f"are free in {tmp_path}" in ended.message
    assert not (tmp_path / ".s.zarr.partial").exists()


@pytest.mark.parametrize("grown", [False, True])
def test_g11_what_readers_see_already_is_not_said_to_be_unwritten(tmp_path: Path, grown: bool) -> None:
    path, series = tmp_path / "s.zarr", make_series(60)
    if grown:
        prepare(series.isel(time=slice(50)), path, SPLIT)
    flush = os.fsync

    def fails(descriptor: int) -> None:
        if path.exists() and Path(f"/proc/self/fd/{descriptor}").samefile(path if grown else tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(descriptor)

    def act() -> None:
        os.fsync = fails
        append(series.isel(time=slice(50, 60)), path) if grown else prepare(series, path, SPLIT)

    ended = in_child(act, tmp_path)
    assert ended.kind == ErrorKind.IO_ERROR
    assert f"{path} was written and readers see it, but the disk did not confirm it" in ended.message
    assert open_store(path).sizes["time"] == 60


def lazy(series: xr.Dataset, load) -> xr.Dataset:
    blocks = da.from_array(series["t2m"].to_numpy(), (12, -1, -1)).map_blocks(load, dtype="float32")
    return series.assign(t2m=series["t2m"].copy(data=blocks))


def test_l05_memory_that_is_not_there_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    series, path = make_series(60), tmp_path / "s.zarr"
    prepare(series, path, SPLIT)
    before = files_of(path)
    too_much = lazy(series, lambda block: np.empty(2**55, np.uint8))
    refused(
        ErrorKind.MEMORY_BUDGET,
        "too little memory: .* was not written and what was there before is intact.*num_workers=1",
        lambda: prepare(too_much, path, SPLIT, overwrite=True),
    )
    assert files_of(path) == before
    assert not (tmp_path / ".s.zarr.partial").exists()


MEMORY = """
import sys
import dask, dask.array as da, numpy as np, xarray as xr
from factory import make_times
import stforecast.store as store
from stforecast.split import Split
from stforecast.store import layout

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

layout.SHARD_BYTES = 4 * 2**20
frames, chunks = int(sys.argv[2]), (-1, 4, -1) if sys.argv[3] == "space" else (256, -1, -1)
def load(block_info=None):
    where = block_info[None]["array-location"]
    shape = tuple(b - a for a, b in where)
    return (280 + np.random.default_rng(where[0][0]).standard_normal(shape, np.float32)).astype(np.float32)

chunks = da.core.normalize_chunks(chunks, (frames, 32, 64), dtype="float32")
values = da.map_blocks(load, chunks=chunks, dtype="float32")
series = xr.Dataset(
    {"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
    {"time": make_times(frames), "latitude": np.linspace(-80, 80, 32), "longitude": np.arange(64) * 5.625},
)
with dask.config.set(num_workers=2):
    store.prepare(series, sys.argv[1], Split.by_fraction(series["time"].to_numpy()))
print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("chunks", ["time", "space"])
def test_l01_l02_l03_i12_a_build_takes_as_much_memory_for_more_data(tmp_path: Path, chunks: str) -> None:
    def taken(frames: int) -> int:
        command = [sys.executable, "-c", MEMORY, str(tmp_path / f"{frames}.zarr"), str(frames), chunks]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
        )
        return int(done.stdout)

    # 16 MiB are four shards for two threads, 96 MiB are 24. A chunk that is whole in time grows with the data itself,
    # from 2 to 12 MiB, and each thread has one in hand.
    small, large = taken(2_048), taken(12_288)
    assert large < small + (40 if chunks == "time" else 64) * 2**20


# --- What is never written


def test_c06_s10_times_are_seconds_since_1970_whatever_comes_and_stay_so(tmp_path: Path) -> None:
    city = make_city(96)
    city["time"].encoding = {"units": "days since 2016-01-01", "dtype": "int64"}
    path = tmp_path / "s.zarr"
    prepare(city.isel(time=slice(80)), path, Split.by_fraction(city["time"].to_numpy()[:80]))
    append(city.isel(time=slice(80, 96)), path)
    stored = zarr.open_array(path / "time")
    assert (stored.dtype, stored.attrs["units"]) == (np.dtype("int64"), "seconds since 1970-01-01")
    np.testing.assert_array_equal(open_store(path)["time"], city["time"])
    np.testing.assert_array_equal(stored[:], city["time"].to_numpy().astype("datetime64[s]").astype(np.int64))


def test_b06_d07_floats_are_stored_as_float32_whatever_their_encoding_was(tmp_path: Path) -> None:
    series = make_series(60)
    series["t2m"].encoding = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0}
    prepare(series, tmp_path / "s.zarr", SPLIT)
    assert zarr.open_array(tmp_path / "s.zarr" / "t2m").dtype == np.float32
    geopotential = make_series(60)
    geopotential["t2m"] = (geopotential["t2m"] * 1000).assign_attrs(units="m2 s-2")
    opened = prepare(geopotential.astype(np.float64), tmp_path / "z.zarr", SPLIT)
    assert (opened["t2m"].dtype, zarr.open_array(tmp_path / "z.zarr" / "t2m").dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(opened["t2m"], geopotential["t2m"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda values: (values * 1000).astype(np.float16), ErrorKind.INF),
        (lambda values: np.where(np.arange(60)[:, None, None] == 5, 1e39, values), ErrorKind.INF),
    ],
    ids=["float16", "float64"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_d07_values_that_a_type_could_not_hold_are_refused(tmp_path: Path, change, kind: ErrorKind) -> None:
    series = make_series(60)
    series["t2m"] = series["t2m"].copy(data=change(series["t2m"].to_numpy())).assign_attrs(units="m2 s-2")
    refused(kind, "variable t2m", lambda: prepare(series, tmp_path / "s.zarr", SPLIT))
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("what", ["step", "variable"])
def test_d02_a_whole_step_or_variable_of_nan_is_named(tmp_path: Path, what: str) -> None:
    series = make_series(60, variables=("t2m", "u10"))
    series["u10"][slice(20, 21) if what == "step" else slice(None)] = np.nan
    # A whole variable is NaN in every shard, and any of them may be the first to be looked at: one of 12 frames, or the
    # last one of 8.
    of_any = "u10 has (288|192) nan .* first at 2016-01"
    match = "u10 has 24 nan .* first at 2016-01-06T00:00" if what == "step" else of_any
    refused(ErrorKind.NAN, match, lambda: prepare(series, tmp_path / "s", SPLIT))
    if what == "step":
        assert prepare(series, tmp_path / "s", SPLIT, nan="drop").attrs["gaps"] == 1
    else:
        refused(ErrorKind.NAN, "every frame has a NaN", lambda: prepare(series, tmp_path / "s", SPLIT, nan="drop"))


def test_f10_i10_f07_coordinates_of_a_store_are_never_rewritten(tmp_path: Path) -> None:
    series, path = make_series(60), tmp_path / "s.zarr"
    prepare(series.isel(time=slice(50)), path, SPLIT)
    before = files_of(path)
    moved = series.isel(time=slice(50, 60), latitude=slice(None, None, -1)).roll(longitude=2, roll_coords=True)
    longitude = (moved["longitude"].to_numpy() + 120) % 360 - 120
    moved = moved.assign_coords(
        latitude=moved["latitude"].astype(np.float32), longitude=moved["longitude"].copy(data=longitude)
    )
    append(moved, path)
    after = files_of(path)
    assert before is not None
    assert after is not None
    for name in before:
        if name.startswith(("store/latitude", "store/longitude")):
            assert after[name] == before[name]
    xr.testing.assert_allclose(open_store(path)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


def test_h06_consolidated_metadata_are_those_of_the_arrays_after_every_publication(tmp_path: Path) -> None:
    series, path = make_series(60), tmp_path / "s.zarr"
    prepare(series.isel(time=slice(50)), path, SPLIT)
    for act in (
        lambda: append(series.isel(time=slice(50, 60)), path),
        lambda: prepare(series.rename(t2m="u10"), path, SPLIT, overwrite=True),
    ):
        act()
        members = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
        on_disk = {file.parent.name: json.loads(file.read_text()) for file in path.glob("[a-z]*/zarr.json")}
        assert members == on_disk
        assert xr.open_zarr(path).sizes["time"] == 60


@pytest.mark.parametrize("name", ["t2m", "time"])
def test_k12_a_shape_that_no_data_could_fill_is_refused_before_anything_is_allocated(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.zarr"
    prepare(make_series(60), path, SPLIT)
    root = path / "zarr.json"
    described = json.loads(root.read_text())
    described["consolidated_metadata"]["metadata"][name]["shape"][0] = 10**11 if name == "t2m" else 2**30
    root.write_text(json.dumps(described))
    write_manifest(root.resolve().parent.parent, {})

    def opened() -> None:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        open_store(path)

    ended = in_child(opened, tmp_path)
    assert (ended.kind, f"{name} declares the shape [1" in ended.message) == (ErrorKind.STORE_CORRUPT, True)


def test_k14_neither_paths_nor_names_of_this_machine_are_in_a_store(tmp_path: Path) -> None:
    make_series(60).to_netcdf(tmp_path / "raw.nc")
    path = tmp_path / "s.zarr"
    prepare(open_dataset(tmp_path / "raw.nc"), path, SPLIT)
    append(make_series(64).isel(time=slice(60, 64)), path)
    secrets = (str(tmp_path), "raw.nc", socket.gethostname(), f'"{getpass.getuser()}"', str(Path.home()))
    for name, content in (files_of(path) or {}).items():
        if name.endswith(".json"):
            assert not [secret for secret in secrets if secret.encode() in content], name
    assert {entry.name for entry in (path / ".versions" / "2").iterdir()} == {"store", "manifest.json"}


def test_k04_k13_a_link_is_never_written_through_into_another_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    (tmp_path / "s.zarr").symlink_to("thesis")
    refused(
        ErrorKind.OUTPUT_EXISTS,
        "is not a store that stforecast prepared",
        lambda: prepare(make_series(60), tmp_path / "s.zarr", SPLIT, overwrite=True),
    )
    assert [entry.name for entry in (tmp_path / "thesis").iterdir()] == ["text"]


def test_o07_the_same_data_give_the_same_bytes_whatever_their_files_are_called(tmp_path: Path) -> None:
    series = make_series(60, variables=("t2m", "u10"))
    for folder, names in (("one", "abc"), ("other", "zyx")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            rows = slice(20 * number, 20 * number + 20)
            series.isel(time=rows)[["u10", "t2m"] if number else ["t2m", "u10"]].to_netcdf(
                tmp_path / folder / f"{name}.nc"
            )
        prepare(open_dataset(tmp_path / folder), tmp_path / f"{folder}.zarr", SPLIT)
    assert files_of(tmp_path / "one.zarr") == files_of(tmp_path / "other.zarr")
    assert validate(tmp_path / "one.zarr").is_sound


# --- Interruptions


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_g18_an_interrupted_build_unlocks_leaves_no_store_and_goes_on(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    rng = np.random.default_rng(0)
    series = make_series(6_000, shape=(16, 32))
    series["t2m"] += rng.standard_normal(series["t2m"].shape, np.float32)
    series.to_netcdf(tmp_path / "raw.nc")
    path = tmp_path / "s.zarr"
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "raw.nc"), str(path)]
    # A child of pytest-xdist may have been started with SIGINT ignored.
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        while not (tmp_path / ".s.zarr.partial" / "recipe.json").exists():
            assert child.poll() is None, child.communicate()
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == status, said
    assert "stforecast: interrupted" in said
    assert "Traceback" not in said
    assert not path.exists()
    assert not (tmp_path / ".s.zarr.holder").exists()
    with lock(path):
        pass


INTERRUPTED = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from stforecast.store import layout
from stforecast import cli
layout.CHUNK_BYTES, layout.SHARD_BYTES = 2**14, 2**16
sys.argv = ["stforecast", "prepare", *sys.argv[1:]]
cli.main()
"""
