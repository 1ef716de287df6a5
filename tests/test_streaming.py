"""Windows out of a store larger than memory are those of memory, in another order."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
import zarr.codecs
from factory import make_series, make_times
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stforecast.channels import Channels
from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split
from stforecast.store import layout, open_store, prepare
from stforecast.windows import (
    Itinerary,
    OnePass,
    Room,
    StoredFrames,
    StreamedWindows,
    WindowLoader,
    Windows,
    stored_windows,
    window_starts,
)

STEP = np.timedelta64(6, "h")
FRAMES, CELLS = 240, (3, 4)
FRAME_BYTES = 4 * 12


def write_array(opened: zarr.Group, name: str, values: np.ndarray, *, chunk: int, shard: int | None) -> None:
    opened.create_array(
        name,
        shape=values.shape,
        chunks=(chunk, *values.shape[1:]),
        shards=shard and (shard, *values.shape[1:]),
        dtype="float32",
        fill_value=np.nan,
        compressors=[zarr.codecs.ZstdCodec(level=1, checksum=True)],
    )[:] = values


def write_store(path: Path, frames: int = FRAMES, *, chunk: int = 4, shard: int | None = 12) -> Path:
    """One variable whose values tell their frame: the whole part is the row."""
    rng = np.random.default_rng(0)
    values = np.arange(frames, dtype=np.float32)[:, None, None] + 0.5 * rng.random((frames, *CELLS), np.float32)
    write_array(zarr.open_group(path, mode="w", zarr_format=3), "t2m", values, chunk=chunk, shard=shard)
    return path


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "s.zarr")


def limit_for(frames: int, *, length: int = 6, batch_size: int = 8, shard: int = 12) -> int:
    """A memory limit that leaves place for so many frames beside three batches and what reading a shard takes."""
    return FRAME_BYTES * (frames + 3 * batch_size * length + 3 * shard)


def streamed(group: Path, starts: np.ndarray | None = None, *, frames: int = 100, **options: object) -> StreamedWindows:
    stored = StoredFrames.open(group, ["t2m"])
    starts = np.arange(FRAMES - 5) if starts is None else starts
    return StreamedWindows(stored, starts, 4, 2, 8, limit_for(frames, shard=stored.shard), **options)


def in_memory(windows: StreamedWindows) -> WindowLoader:
    frames = windows.stored.load(slice(0, FRAMES))
    return WindowLoader(frames, windows.starts, windows.history, windows.horizon, windows.batch_size)


def order(windows: Windows, number: int = 0) -> list[int]:
    return [int(start) for _, _, starts in windows.epoch(number) for start in starts]


def by_start(windows: Windows, number: int = 0) -> dict[int, tuple[bytes, bytes]]:
    """The bytes of each window's history and target; a window that comes twice is refused."""
    found = {}
    for history, target, starts in windows.epoch(number):
        for start, seen, asked in zip(starts.tolist(), history, target, strict=True):
            assert start not in found
            found[start] = (seen.numpy().tobytes(), asked.numpy().tobytes())
    return found


@given(
    absent=st.sets(st.integers(0, FRAMES - 1), max_size=40),
    history=st.integers(1, 9),
    horizon=st.integers(0, 9),
    batch_size=st.integers(1, 40),
    frames=st.integers(80, 400),
    seed=st.none() | st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_a_streamed_pass_gives_each_window_of_memory_once(
    group: Path, absent: set[int], history: int, horizon: int, batch_size: int, frames: int, seed: int | None
) -> None:
    times = make_times(FRAMES + len(absent), absent=tuple(sorted(absent)))
    starts = window_starts(times, STEP, history + horizon, part=slice(7, 231))
    limit = limit_for(frames, length=history + horizon, batch_size=batch_size)
    windows = StreamedWindows(StoredFrames.open(group, ["t2m"]), starts, history, horizon, batch_size, limit, seed)
    assert by_start(windows) == by_start(in_memory(windows))
    assert [len(some) for _, _, some in windows] == [len(some) for _, _, some in in_memory(windows)]


@pytest.mark.parametrize(("chunk", "shard"), [(1, None), (5, 35), (24, 24), (7, 1400)])
def test_the_layout_of_a_store_changes_no_window(tmp_path: Path, chunk: int, shard: int | None) -> None:
    windows = streamed(write_store(tmp_path / "s.zarr", chunk=chunk, shard=shard), frames=200, seed=1)
    assert by_start(windows) == by_start(in_memory(windows))


def test_frames_are_stacked_as_channels_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 384)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1152)
    series = make_series(levels=(500.0, 850.0), variables=("u10", "t2m"))
    series["t2m"] = series["t2m"].isel(level=0, drop=True)
    opened = prepare(series, tmp_path / "s.zarr", Split.by_fraction(series["time"].to_numpy()))
    channels = Channels.of(opened[["u10", "t2m"]])
    stored = StoredFrames.open((tmp_path / "s.zarr" / ".current").resolve(), channels.names)
    expected = channels.stack(open_store(tmp_path / "s.zarr", normalized=True))
    assert stored.shape == expected.shape == (80, 3, 4, 6)
    np.testing.assert_array_equal(stored.load(slice(5, 73)), expected[5:73])


def test_unshuffled_windows_come_in_order_of_time(group: Path) -> None:
    assert order(streamed(group)) == list(range(FRAMES - 5))


class Slow(StoredFrames):
    """Takes its time, another one for each block."""

    def read_into(self, frames: np.ndarray, rows: slice) -> None:
        time.sleep(0.003 * (rows.start % 4))
        super().read_into(frames, rows)


def test_the_order_is_one_of_seed_and_pass_however_long_reading_takes(group: Path) -> None:
    windows = streamed(group, seed=1)
    slow = replace(windows, stored=Slow.open(group, ["t2m"]))
    assert order(slow, 2) == order(windows, 2)
    assert by_start(slow, 2) == by_start(windows, 2)
    assert order(windows, 2) != order(windows, 1)
    assert order(windows, 2) != order(replace(windows, seed=2), 2)


class Counted(StoredFrames):
    """Notes which rows were read."""

    reads: list[slice]

    def read_into(self, frames: np.ndarray, rows: slice) -> None:
        self.reads.append(rows)
        super().read_into(frames, rows)


def test_a_thread_reads_one_block_ahead_and_no_more(group: Path) -> None:
    stored = Counted.open(group, ["t2m"])
    object.__setattr__(stored, "reads", reads := [])
    windows = replace(streamed(group, seed=1), stored=stored)
    slots, most = windows.room.slots, 0
    given: dict[int, int] = dict.fromkeys(range(0, FRAMES, windows.room.block), 0)
    left = {block: sum(block <= start < block + windows.room.block for start in windows.starts) for block in given}
    for _, _, starts in windows.epoch(0):
        for start in starts.tolist():
            left[start // windows.room.block * windows.room.block] -= 1
        time.sleep(0.002)
        most = max(most, len(reads) - sum(not number for number in left.values()))
    assert len(reads) == len(left) > slots
    assert most <= slots


@given(
    frame=st.integers(1, 10_000),
    chunk=st.integers(1, 40),
    chunks=st.integers(1, 40),
    length=st.integers(1, 60),
    batch_size=st.integers(1, 64),
    megabytes=st.integers(1, 500),
)
def test_blocks_reading_and_batches_fit_in_the_limit(
    frame: int, chunk: int, chunks: int, length: int, batch_size: int, megabytes: int
) -> None:
    layout = {"shape": (10**6, frame, 1), "chunks": (chunk, frame, 1), "shards": (chunk * chunks, frame, 1)}
    array = zarr.create_array(zarr.storage.MemoryStore(), **layout, dtype="float32")
    stored = StoredFrames(Path("s.zarr"), ("t2m",), (array,))
    limit = megabytes * 2**20
    try:
        room = Room.within(limit, stored, length, batch_size)
    except StforecastError:
        return
    held = room.slots * room.frames + 3 * batch_size * length
    assert held * stored.frame_bytes + stored.reading_bytes <= limit
    assert room.block % chunk == 0
    assert room.slots >= 2


def test_a_large_limit_reads_whole_shards(group: Path) -> None:
    # Windows of 6 frames reach over 5; eight times 5 frames are four shards of 12. 2,000 frames hold ten of 48 + 5.
    assert streamed(group, frames=2000).room == Room(48, 53, 37)


def test_a_limit_that_is_too_low_is_refused_with_what_it_takes(group: Path) -> None:
    least = limit_for(2 * (8 + 5))  # two blocks of two chunks of 4 frames, and 5 that the last windows reach into
    with pytest.raises(StforecastError, match=f"too little.*it takes {least:,}; raise it") as caught:
        streamed(group, frames=2 * (8 + 5) - 1)
    assert caught.value.kind == ErrorKind.MEMORY_BUDGET
    assert streamed(group, frames=2 * (8 + 5)).room == Room(8, 13, 2)


MEMORY = """
import sys
import numpy as np
from pathlib import Path
from stforecast.windows import StoredFrames, StreamedWindows

def peak():
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))

path, rows, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stored = StoredFrames.open(path, ["t2m"])
before = peak()
given = sum(len(starts) for _, _, starts in StreamedWindows(stored, np.arange(rows - 23), 12, 12, 16, limit, seed=0))
assert given == rows - 23
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_size_of_the_store(tmp_path: Path) -> None:
    rows, limit = 24_000, 40 * 2**20
    noise = np.random.default_rng(0).standard_normal((2000, 32, 64), np.float32)
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    write_array(group, "t2m", np.tile(noise, (rows // 2000, 1, 1)), chunk=32, shard=2048)

    def grown(some: int) -> int:
        command = [sys.executable, "-c", MEMORY, str(tmp_path), str(some), str(limit)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # 196 MB through 42 MB. Zarr's own modules and threads, and the C library's allocator, take some 40 MiB besides.
    small, large = grown(rows // 4), grown(rows)
    assert large < limit + 64 * 2**20
    assert large < small + 24 * 2**20


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[40 if how == "a bit of a chunk" else -10] ^= 1
        file.write_bytes(content)


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("stforecast-windows")]


@pytest.mark.parametrize("how", ["a bit of a chunk", "a bit of the index", "cut", "missing"])
def test_a_damaged_file_is_named_in_the_loop(tmp_path: Path, how: str) -> None:
    windows = streamed(write_store(tmp_path / "s.zarr"), seed=3)
    file = tmp_path / "s.zarr" / "t2m" / "c" / "7" / "0" / "0"
    damage(file, how)
    with pytest.raises(StforecastError, match=f"variable t2m is damaged in {file}.*prepare it anew") as caught:
        order(windows)
    assert caught.value.kind == ErrorKind.STORE_CORRUPT
    assert ("because it is missing" in str(caught.value)) == (how == "missing")
    caught.value.__traceback__ = None
    assert not reading_threads()


def test_a_loop_that_is_left_leaves_no_thread(group: Path) -> None:
    for _ in streamed(group, seed=1):
        assert reading_threads()
        break
    assert not reading_threads()


def test_batches_stay_as_they_were_given(group: Path) -> None:
    batches = list(streamed(group, seed=1))
    for history, target, starts in batches:
        assert torch.equal(history[:, :, 0, 0, 0].int(), starts[:, None] + torch.arange(4))
        assert torch.equal(target[:, :, 0, 0, 0].int(), starts[:, None] + torch.arange(4, 6))
        assert history.is_contiguous()
        assert target.is_contiguous()


def test_what_fits_in_memory_is_read_once_and_the_rest_is_streamed(group: Path) -> None:
    starts = np.arange(30, 100)

    def of(frames: int) -> Windows:
        return stored_windows(group, ["t2m"], starts, 4, 2, 8, memory_limit=limit_for(frames), seed=1)

    memory, stream = of(75), of(74)
    assert isinstance(memory, WindowLoader)
    assert isinstance(stream, StreamedWindows)
    assert len(memory.frames) == 75
    assert by_start(memory) == by_start(stream)
    assert sorted(order(memory)) == starts.tolist()


def test_no_windows_are_no_batches(group: Path) -> None:
    for limit in (limit_for(50), limit_for(500)):
        assert not list(stored_windows(group, ["t2m"], np.arange(0), 4, 2, 8, memory_limit=limit, seed=1))
    assert not list(streamed(group, np.arange(0), seed=1))


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["t2m", "u10"], ErrorKind.VAR_MISSING, "has no variable u10"),
        (["t2m", "coarse"], ErrorKind.STORE_CORRUPT, "differ in"),
    ],
)
def test_variables_that_do_not_go_together_are_refused(
    tmp_path: Path, names: list[str], kind: ErrorKind, message: str
) -> None:
    write_store(tmp_path / "s.zarr")
    write_array(zarr.open_group(tmp_path / "s.zarr"), "coarse", np.ones((FRAMES, 2, 2)), chunk=4, shard=12)
    with pytest.raises(StforecastError, match=message) as caught:
        StoredFrames.open(tmp_path / "s.zarr", names)
    assert caught.value.kind == kind


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="is not a Zarr group") as caught:
        StoredFrames.open(tmp_path, ["t2m"])
    assert caught.value.kind == ErrorKind.FILE_FORMAT


# How random: the measures that StreamedWindows states.


@pytest.fixture(scope="module")
def passes() -> list[np.ndarray]:
    """The windows of some passes over 60 blocks of 256 windows, 9 at a time."""
    room, starts = Room(256, 279, 10), np.arange(60 * 256)
    return [Itinerary.through(starts, 24, room, np.random.default_rng([1, number])).starts for number in range(6)]


def pairs_that_overlap(order: np.ndarray) -> float:
    """How many pairs of 24-frame windows of a batch of 16 share a frame, on average."""
    batches = np.sort(order[: len(order) // 16 * 16].reshape(-1, 16), axis=1)
    return float((np.abs(batches[:, :, None] - batches[:, None]) < 24).sum(axis=(1, 2)).mean() - 16) / 2


def test_windows_move_as_far_as_in_a_complete_shuffle(passes: list[np.ndarray]) -> None:
    # A complete shuffle moves a window by a third of the pass on average.
    moved = np.mean([np.abs(order - np.arange(len(order))).mean() / len(order) for order in passes])
    np.testing.assert_allclose(moved, 1 / 3, atol=0.03)


def test_a_batch_is_drawn_out_of_the_whole_pool(passes: list[np.ndarray]) -> None:
    blocks = np.concatenate([order.reshape(-1, 16) // 256 for order in passes])
    distinct = np.mean([len(set(batch)) for batch in blocks.tolist()])
    # 16 draws out of 9 blocks meet 9 (1 - (8/9)^16) = 7.6 of them; the first and the last turns favour a few blocks.
    assert 7.0 < distinct < 7.7
    # 47 of a pool's 2,304 windows overlap with a given one: 120 pairs times 47/2304 is 2.4.
    assert np.mean([pairs_that_overlap(order) for order in passes]) < 1.3 * 2.4


def test_other_blocks_meet_in_each_pass(passes: list[np.ndarray]) -> None:
    def met(order: np.ndarray) -> set[tuple[int, int]]:
        return {
            (one, other)
            for batch in (order.reshape(-1, 16) // 256).tolist()
            for one in batch
            for other in batch
            if one < other
        }

    together = [met(order) for order in passes]
    possible = 60 * 59 / 2
    assert all(len(pairs) < 0.35 * possible for pairs in together)
    assert len(set.union(*together)) > 0.75 * possible


# Several processes and workers share a pass.


def shards(windows: Windows, world: int) -> Iterator[Windows]:
    return (windows.shard(rank, world) for rank in range(world))


@given(number=st.integers(1, 200), batch_size=st.integers(1, 20), world=st.integers(1, 9), seed=st.none() | st.just(1))
def test_shards_are_disjoint_leave_nothing_out_and_have_as_many_batches(
    number: int, batch_size: int, world: int, seed: int | None
) -> None:
    world = min(world, number)
    frames = torch.zeros(number, 1, 1, 1)
    windows = WindowLoader(frames, np.arange(number), 1, 0, batch_size, seed)
    orders = [order(shard) for shard in shards(windows, world)]
    assert {len(list(shard)) for shard in shards(windows, world)} == {len(windows.shard(0, world))}
    assert sorted(start for some in orders for start in set(some)) == list(range(number))
    twice = [len(some) - len(set(some)) for some in orders]
    assert sum(twice) == 0 if batch_size > 1 else max(twice) <= 1
    sizes = [len(starts) for shard in shards(windows, world) for _, _, starts in shard]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world", [2, 3])
def test_shards_of_a_stream_are_streams_of_their_own_part(group: Path, world: int) -> None:
    windows = streamed(group, seed=1)
    parts = [by_start(shard) for shard in shards(windows, world)]
    assert sum(map(len, parts)) == len(windows.starts)
    assert {start: window for part in parts for start, window in part.items()} == by_start(in_memory(windows))


def test_shards_are_shuffled_differently() -> None:
    windows = WindowLoader(torch.zeros(200, 1, 1, 1), np.arange(200), 1, 0, 8, seed=1)
    first, second = (np.array(order(shard)) for shard in shards(windows, 2))
    assert (first != second - 100).any()


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (0, 26)])
def test_a_shard_that_cannot_be_is_refused(rank: int, world: int) -> None:
    windows = WindowLoader(torch.zeros(25, 1, 1, 1), np.arange(25), 1, 0, 8)
    with pytest.raises(StforecastError, match=f"25 windows, got rank {rank} of {world}") as caught:
        windows.shard(rank, world)
    assert caught.value.kind == ErrorKind.ARGUMENT


# Python 3.12 warns of forking where threads run; Zarr starts its own anew in the child. Torch warns of few cores.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 5])
def test_workers_of_a_data_loader_share_a_pass(group: Path, workers: int) -> None:
    stream = streamed(group, np.arange(28), seed=1)
    for windows in (stream, in_memory(stream)):
        loader = DataLoader(OnePass(windows, 3), batch_size=None, num_workers=workers)
        given = [int(start) for _, _, starts in loader for start in starts]
        assert sorted(given) == list(range(28))
        assert len(loader) == len(windows)
        if not workers:
            assert given == order(windows, 3)
