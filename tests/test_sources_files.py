"""Raw files at the door: checksums beside, unfinished ones, those that change, and those that crash a C library."""

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.sources.probing import Prober, probe
from stforecast.sources.raw_files import Stamp, at_rest, check_file, find_files


def write(path: Path, frames: int = 6) -> Path:
    make_series(frames).to_netcdf(path)
    return path


def refused(kind: ErrorKind, message: str, path: Path, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


# --- Checksums beside


def write_sum(path: Path, text: str | None = None) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(text or f"{digest}  {path.name}\n")


@pytest.mark.parametrize("form", ["{digest}\n", "{digest}  a.nc\n", "{digest} *a.nc\n", "{digest}  /data/a.nc\n"])
def test_a04_a_file_that_is_what_its_sum_says_is_read(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "a.nc")
    write_sum(path, form.format(digest=hashlib.sha256(path.read_bytes()).hexdigest().upper()))
    assert open_dataset(path).sizes["time"] == 6


def test_a04_one_bit_of_the_values_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    write_sum(path)
    content = bytearray(path.read_bytes())
    values = make_series(6)["t2m"].to_numpy().tobytes()
    content[content.index(values) + 7] ^= 1
    path.write_bytes(content)
    refused(ErrorKind.FILE_CHECKSUM, r"a\.nc has the SHA-256 \w{12}… but a\.nc\.sha256 names \w{12}…", path)


@pytest.mark.parametrize("text", ["nothing here", "", f"{'0' * 64}  b.nc\n"])
def test_a04_a_sum_file_without_the_sum_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.nc")
    write_sum(path, text or "\n")
    refused(ErrorKind.FILE_CHECKSUM, r"a\.nc\.sha256 holds no SHA-256 of a\.nc", path)


def test_a04_a_new_sum_is_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    check_file(path)
    write_sum(path, f"{'0' * 64}  a.nc\n")
    with pytest.raises(StforecastError, match="has the SHA-256"):
        check_file(path)


# --- A process that looks first


def test_a05_a_file_that_is_sound_is_let_through(tmp_path: Path) -> None:
    probe(write(tmp_path / "a.nc"))


def test_a05_a_look_that_lasts_too_long_is_stopped_and_the_next_one_is_not(tmp_path: Path) -> None:
    prober = Prober([sys.executable, "-c", "import time; time.sleep(60)"])
    path = write(tmp_path / "slow.nc")
    with pytest.raises(StforecastError, match=r"slow\.nc was not opened within 0\.2 s") as caught:
        prober.look(path, limit_s=0.2)
    assert caught.value.kind == ErrorKind.FILE_TIMEOUT
    prober.close()
    probe(path)


def test_a05_a_file_that_crashes_the_library_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    prober = Prober([sys.executable, "-c", f"import os; input(); os.kill(os.getpid(), {int(signal.SIGSEGV)})"])
    for name in ("a.nc", "b.nc"):
        path = write(tmp_path / name)
        with pytest.raises(StforecastError, match=rf"{name} is damaged: a process .* died with status -11") as caught:
            prober.look(path, limit_s=30)
        assert caught.value.kind == ErrorKind.FILE_FORMAT
    prober.close()


def test_a_child_that_was_idle_for_long_is_replaced(tmp_path: Path) -> None:
    code = "import sys; print('null', flush=True) if sys.stdin.readline() else None"  # it answers once, then ends
    prober = Prober([sys.executable, "-c", code])
    for _ in range(3):
        prober.look(write(tmp_path / "a.nc"), limit_s=30)
    prober.close()


def test_a_forked_process_has_a_child_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    code = (
        "import os, sys; from pathlib import Path; from stforecast.sources.probing import probe\n"
        "path = Path(sys.argv[1]); probe(path); pid = os.fork(); probe(path)\n"
        "if pid: sys.exit(os.waitpid(pid, 0)[1])\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], check=True, timeout=60)


def test_a05_k07_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("inner")["outer"] = h5py.SoftLink("/")
    refused(
        ErrorKind.FILE_UNSAFE_HDF5,
        r"a\.h5: /inner/outer is a group that other links lead to as well",
        tmp_path / "a.h5",
    )
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["inner/inner"] = file.create_group("inner")
    refused(ErrorKind.FILE_UNSAFE_HDF5, r"b\.h5: /inner/inner is a group that", tmp_path / "b.h5")


@pytest.mark.parametrize("seed", range(8))
def test_a05_bytes_overwritten_anywhere_give_a_named_error_or_a_series(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "a.nc")
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(8, len(content), 5):
        content[place] = random.integers(256)
    path.write_bytes(content)
    try:
        open_dataset(path).load()
    except StforecastError as error:
        assert "a.nc" in str(error)  # noqa: PT017 either outcome is right


# --- Files that are being written


@pytest.mark.parametrize("suffix", [".part", ".tmp", ".crdownload", ".partial"])
def test_a06_unfinished_files_are_left_out_of_a_folder_and_refused_by_name(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a.nc")
    unfinished = tmp_path / f"b.nc{suffix}"
    unfinished.write_bytes(b"half")
    assert find_files(tmp_path) == [tmp_path / "a.nc"]
    assert find_files(tmp_path / "*") == [tmp_path / "a.nc"]
    refused(ErrorKind.FILE_BUSY, rf"b\.nc\{suffix} is not finished", unfinished)


def test_a06_a_file_that_another_program_writes_is_busy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    code = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        refused(ErrorKind.FILE_BUSY, r"a\.nc is being written by another program; try again", path)
        writer.communicate()
    assert open_dataset(path).sizes["time"] == 6


@pytest.mark.parametrize("form", ["nc", "h5"])
def test_a06_a_file_that_changes_between_opening_and_reading_is_busy(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "nc":
        write(path)
    else:
        with h5py.File(path, "w") as file:
            file["data"], file["date"] = np.ones((3, 2, 4, 4)), np.array([b"2013070101", b"2013070102", b"2013070103"])
    series = open_dataset(path)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(StforecastError, match=rf"a\.{form} has changed since it was opened") as caught:
        series.load()
    assert caught.value.kind == ErrorKind.FILE_BUSY
    path.unlink()
    with pytest.raises(StforecastError, match=rf"a\.{form} is gone since it was opened"):
        series.load()


def test_a06_a_change_during_a_read_is_told_rather_than_the_damage_that_it_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")

    def read() -> None:
        with at_rest(Stamp.of(path)):
            path.write_bytes(b"short")
            raise StforecastError(ErrorKind.FILE_FORMAT, "damaged")

    with pytest.raises(StforecastError, match="has changed") as caught:
        read()
    assert caught.value.kind == ErrorKind.FILE_BUSY


# --- Archives


def test_k05_archives_are_refused_and_never_unpacked(tmp_path: Path) -> None:
    write(tmp_path / "inner.nc")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "inner.nc", "../outside.nc")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "inner.nc", "../outside.nc")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "inner.nc", "outside.nc")
    before = sorted(tmp_path.parent.rglob("*"))
    refused(
        ErrorKind.FILE_FORMAT, r"a\.zip is not a netCDF or HDF5 file: .* a zip archive; unpack it", tmp_path / "a.zip"
    )
    refused(ErrorKind.FILE_FORMAT, r"a\.tar\.gz is not .* gzip; unpack it first", tmp_path / "a.tar.gz")
    refused(ErrorKind.FILE_FORMAT, r"a\.tar is not a netCDF or HDF5 file", tmp_path / "a.tar")
    assert sorted(tmp_path.parent.rglob("*")) == before


# --- Times of another resolution, and small shapes


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_b11_times_of_any_resolution_become_nanoseconds(tmp_path: Path, unit: str) -> None:
    series = make_series(6)
    coarse = series.assign_coords(time=series["time"].astype(f"datetime64[{unit}]"))
    coarse.to_netcdf(tmp_path / "a.nc")
    coarse.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    for name in ("a.nc", "a.zarr"):
        result = open_dataset(tmp_path / name)
        assert result["time"].dtype == "datetime64[ns]"
        xr.testing.assert_equal(result.compute(), series)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (33, 59), (5, 3)])
def test_i14_odd_shapes_come_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    series = make_series(4, shape=shape)
    series.to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_i03_values_that_float16_could_not_hold_come_back(tmp_path: Path) -> None:
    series = make_series(4)
    series["t2m"] = (series["t2m"] * 1000).assign_attrs(units="m2 s-2")  # geopotentials reach 3e5
    series.to_netcdf(tmp_path / "a.nc")
    result = open_dataset(tmp_path / "a.nc")["t2m"]
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, series["t2m"])


@pytest.mark.parametrize("other", ["longitude", "latitude"])
def test_g14_a_zarr_axis_whose_metadata_do_not_fit_its_bytes_is_refused_at_opening(tmp_path: Path, other: str) -> None:
    path = tmp_path / "a.zarr"
    make_series(60).to_zarr(path, zarr_format=3, consolidated=False)
    metadata = [path / name / "zarr.json" for name in ("time", other)]
    texts = [file.read_text() for file in metadata]
    for file, text in zip(metadata, reversed(texts), strict=True):
        file.write_text(text)
    with pytest.raises(StforecastError, match="a.zarr cannot be read: .*reshape.*; fetch the store anew") as caught:
        open_dataset(path)
    assert caught.value.kind is ErrorKind.FILE_FORMAT
