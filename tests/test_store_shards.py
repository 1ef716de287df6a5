"""A shard's file: the bytes that Zarr would write, and what is not read back as it was written."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.store import shards
from stforecast.store.shards import write_shard


@pytest.mark.parametrize("cells", [(3, 4), (2, 3, 4)])
@pytest.mark.parametrize(("chunk", "shard"), [(1, 1), (1, 5), (3, 3), (2, 8)])
@pytest.mark.parametrize("kept", [0.0, 0.4, 1.0])
def test_a_shard_is_the_file_that_zarr_writes(
    tmp_path: Path, cells: tuple[int, ...], chunk: int, shard: int, kept: float
) -> None:
    frames = np.random.default_rng(0).standard_normal((max(int(kept * shard), 1), *cells)).astype(np.float32)
    array = zarr.create_array(
        tmp_path / "array",
        shape=frames.shape,
        chunks=(chunk, *cells),
        shards=(shard, *cells),
        dtype="float32",
        fill_value=np.nan,
        compressors=[zarr.codecs.ZstdCodec(level=shards.ZSTD_LEVEL, checksum=True)],
        config={"write_empty_chunks": True},
    )
    array[:] = frames
    expected = tmp_path.joinpath("array", "c", *("0" for _ in frames.shape))
    file = tmp_path / "new" / "0"
    size, _ = write_shard(file, frames, chunk, shard)
    assert file.read_bytes() == expected.read_bytes()
    assert size == expected.stat().st_size
    assert [path.name for path in file.parent.iterdir()] == ["0"]


@pytest.mark.parametrize("at", [0, 40, -30, -2])
def test_what_the_disk_gives_back_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def flipped(path: Path) -> bytes:
        content = bytearray(read(path))
        content[at] ^= 1
        return bytes(content)

    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", flipped)
    frames = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    with pytest.raises(StforecastError, match="was not read back as it was written") as caught:
        write_shard(tmp_path / "0", frames, 2, 4)
    assert caught.value.kind is ErrorKind.READBACK
    assert not (tmp_path / "0").exists()
