"""The file of one shard: compressed chunks of frames and an index of them, as Zarr's sharding codec lays it out.

Zarr itself makes the same bytes, which a test holds, and reads them. It takes 1.8 times the CPU time for it, because
each of a shard's chunks goes through an event loop and threads of its own (benchmarks/store.py).
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import sha256
from stforecast.normalization import Values

ZSTD_LEVEL = 1
_CHECKSUM_BYTES = 4
# Place and length of a chunk that is not there, behind the end of the store.
_ABSENT = 2**64 - 1


def write_shard(file: Path, frames: Values, chunk: int, shard: int) -> tuple[int, str]:
    """Size and SHA-256 of a shard's file, once it was written and read back.

    Args:
        file: what is to be written; it appears whole or not at all.
        frames: normalized float32, (time, [level,] y, x); fewer than a shard has at the end of a store.
        chunk: frames a chunk.
        shard: frames a shard, a multiple of the chunk.

    Raises:
        StforecastError: READBACK if the file does not give the frames to the last bit.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Builds of several parts may write the same shard at a time.
    half = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")
    with half.open("wb") as opened:
        opened.writelines(_encoded(frames, chunk, shard))
    content = half.read_bytes()
    if not _holds(content, frames, chunk, shard):
        raise StforecastError(ErrorKind.READBACK, f"{file} was not read back as it was written; check the disk")
    half.replace(file)
    return len(content), sha256(content)


def _encoded(frames: Values, chunk: int, shard: int) -> Iterator[bytes]:
    """The chunks of a shard one after another, then the index: where each begins and how long it is, and a checksum."""
    # Each chunk carries a checksum, which finds a flipped bit at reading; without it most decode into wrong numbers.
    codec = numcodecs.Zstd(level=ZSTD_LEVEL, checksum=True)
    index, behind = np.full((shard // chunk, 2), _ABSENT, "<u8"), 0
    for number in range(-(-len(frames) // chunk)):
        encoded = codec.encode(_chunk(frames, number * chunk, chunk))
        index[number] = behind, len(encoded)
        behind += len(encoded)
        yield encoded
    yield index.tobytes() + _checksum(index.tobytes())


def _chunk(frames: Values, first: int, chunk: int) -> Values:
    """The frames of one chunk, filled up with NaN behind the end of the store."""
    some = np.ascontiguousarray(frames[first : first + chunk], "<f4")
    if len(some) == chunk:
        return some
    filled = np.full((chunk, *frames.shape[1:]), np.nan, "<f4")
    filled[: len(some)] = some
    return filled


def _holds(content: bytes, frames: Values, chunk: int, shard: int) -> bool:
    """Whether a shard's file has these frames."""
    chunks, codec = shard // chunk, numcodecs.Zstd()
    index_bytes = content[-16 * chunks - _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
    if content[-_CHECKSUM_BYTES:] != _checksum(index_bytes):
        return False
    index, encoded = np.frombuffer(index_bytes, "<u8").reshape(chunks, 2), memoryview(content)
    used = -(-len(frames) // chunk)
    try:
        return bool((index[used:] == _ABSENT).all()) and all(
            codec.decode(encoded[first : first + length]) == _chunk(frames, number * chunk, chunk).tobytes()
            for number, (first, length) in enumerate(index[:used].tolist())
        )
    except RuntimeError:  # zstd's own, for a checksum that is wrong
        return False


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CHECKSUM_BYTES, "little")
