"""OpenSTL's windows: read as they are, said to lack what they lack, and never trusted."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.sources.openstl import read_windows


def make_windows(windows: int = 5, *, cells: tuple[int, int] = (4, 3), seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    names = (("X_train", windows, 4), ("Y_train", windows, 3), ("X_test", 2, 4), ("Y_test", 2, 3))
    return {name: random.uniform(-1, 1, (count, steps, 2, *cells)) for name, count, steps in names}


def write(path: Path, *, compressed: bool = False, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = {name: array for name, array in (make_windows() | changes).items() if array is not None}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return arrays


def write_member(path: Path, name: str, content: bytes) -> None:
    """The archive with one array's bytes replaced."""
    write(path)
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, old in members.items():
            archive.writestr(each, content if each == f"{name}.npy" else old)


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def refused(kind: ErrorKind, message: str, path: Path, part: str = "train") -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        read_windows(path, part=part)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part", ["train", "test"])
def test_windows_come_back_as_they_were(tmp_path: Path, part: str, compressed: bool) -> None:
    arrays = write(tmp_path / "dataset.npz", compressed=compressed)
    windows = read_windows(tmp_path / "dataset.npz", part=part)
    np.testing.assert_array_equal(windows["history"], arrays[f"X_{part}"].astype(np.float32))
    np.testing.assert_array_equal(windows["horizon"], arrays[f"Y_{part}"].astype(np.float32))
    assert windows["history"].dims == ("window", "history_step", "flow", "row", "column")
    assert windows["horizon"].dims == ("window", "horizon_step", "flow", "row", "column")
    assert windows["flow"].to_numpy().tolist() == ["inflow", "outflow"]
    assert windows["history"].dtype == np.float32


def test_fortran_order_is_the_same_array(tmp_path: Path) -> None:
    arrays = make_windows()
    write(tmp_path / "dataset.npz", X_train=np.asfortranarray(arrays["X_train"]))
    result = read_windows(tmp_path / "dataset.npz", part="train")["history"]
    np.testing.assert_array_equal(result, arrays["X_train"].astype(np.float32))


def test_the_windows_say_what_they_lack(tmp_path: Path) -> None:
    write(tmp_path / "dataset.npz")
    lacks = read_windows(tmp_path / "dataset.npz", part="train").attrs["lacks"]
    assert all(word in lacks for word in ("times", "scale", "gaps"))


def test_a_series_is_refused_with_the_function_that_reads_them(tmp_path: Path) -> None:
    write(tmp_path / "dataset.npz")
    with pytest.raises(StforecastError, match=r"dataset\.npz holds .* no times .*openstl\.read_windows\(") as caught:
        open_dataset(tmp_path / "dataset.npz")
    assert caught.value.kind == ErrorKind.DIMS


def test_k10_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.empty((5, 4, 2, 4, 3), object)
    write(tmp_path / "dataset.npz", X_train=objects)
    refused(ErrorKind.FILE_UNSAFE, r"X_train\.npy of .*dataset\.npz holds Python objects", tmp_path / "dataset.npz")


def test_k06_a_bomb_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "dataset.npz"
    write_member(path, "X_train", header((2**36, 4, 2, 32, 32)))
    refused(ErrorKind.FILE_TOO_LARGE, rf"X_train\.npy of .* declares {2**36 * 8192 * 8} bytes", path)
    write_member(path, "X_train", header((10**5, 4, 2, 4, 3)) + bytes(100))
    refused(ErrorKind.FILE_TRUNCATED, "declares 76800000 bytes of values but the archive holds 100", path)


def test_k06_an_array_longer_than_it_declares_is_refused(tmp_path: Path) -> None:
    values = make_windows()["X_train"]
    write_member(tmp_path / "dataset.npz", "X_train", header(values.shape) + values.tobytes() + bytes(8))
    refused(ErrorKind.FILE_TRUNCATED, "the archive holds", tmp_path / "dataset.npz")


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (None, ErrorKind.VAR_MISSING, "has no array X_train; it has Y_train"),
        (np.zeros((5, 4, 2, 4)), ErrorKind.SHAPE, r"X_train\.npy of .* is float64 \(5, 4, 2, 4\), wanted numbers"),
        (np.zeros((5, 4, 3, 4, 3)), ErrorKind.SHAPE, r"float64 \(5, 4, 3, 4, 3\)"),
        (np.zeros((0, 4, 2, 4, 3)), ErrorKind.SHAPE, r"float64 \(0, 4, 2, 4, 3\)"),
        (np.zeros((4, 4, 2, 4, 3)), ErrorKind.SHAPE, r"X_train is \(4, .*Y_train \(5, .*, wanted as many windows"),
        (np.full((5, 4, 2, 4, 3), 17.0), ErrorKind.RANGE, "values from 17 to 17, wanted"),
        (np.full((5, 4, 2, 4, 3), np.nan), ErrorKind.RANGE, "values from nan to nan"),
        (np.array(["text"]), ErrorKind.SHAPE, "wanted numbers"),
    ],
)
def test_arrays_that_are_none_of_openstls_are_named(
    tmp_path: Path, array: np.ndarray | None, kind: ErrorKind, message: str
) -> None:
    write(tmp_path / "dataset.npz", X_train=array)
    refused(kind, message, tmp_path / "dataset.npz")


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "dataset.npz"
    arrays = write(path)
    content = bytearray(path.read_bytes())
    content[content.index(arrays["X_train"].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    refused(ErrorKind.FILE_FORMAT, r"dataset\.npz is damaged or no \.npz: Bad CRC-32", path)
    path.write_bytes(content[: len(content) // 2])
    refused(ErrorKind.FILE_FORMAT, r"dataset\.npz is damaged or no \.npz", path)
    write_member(path, "X_train", b"not numpy")
    refused(ErrorKind.FILE_FORMAT, r"X_train\.npy of .* is no array", path)


def test_a_file_that_is_not_there_and_a_part_that_is_none(tmp_path: Path) -> None:
    refused(ErrorKind.FILE_MISSING, "there is no file", tmp_path / "dataset.npz")
    refused(ErrorKind.ARGUMENT, "unknown part 'validation'; there are train, test", tmp_path / "d.npz", "validation")
