"""Which windows of a time axis are whole, and batches of them, from memory or streamed out of a store."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch.utils.data import IterableDataset, get_worker_info

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times

Rows = npt.NDArray[np.intp]
Frames = npt.NDArray[np.float32]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]
Array: TypeAlias = "zarr.Array[Any]"

# Zarr holds a piece up to three times while it reads it: as bytes, as the chunks' values, and as the whole.
PIECE_BYTES, COPIES = 2**20, 3
# A loop holds one batch while the next is cut, and one that is cut out of two pools is there twice.
BATCHES = 3
# Fewer blocks than nine at a time mix the year's seasons poorly; a tenth is being read meanwhile.
SLOTS = 10
# Frames that two blocks share are read twice: an eighth more reading at most, where memory allows.
BLOCK_TO_OVERLAP = 8


def window_starts(times: Times, step: np.timedelta64, length: int, *, part: slice | None = None) -> Rows:
    """The rows at which `length` frames, one step apart each, begin.

    Args:
        times: a strictly increasing time axis on multiples of `step`, (time,).
        step: the step of the series.
        length: frames in a window, history and horizon together.
        part: the rows that a window must lie in as a whole; all by default.

    Returns:
        Increasing rows, (window,); empty where no window is whole.
    """
    first, behind, _ = (part or slice(None)).indices(len(times))
    starts: Rows = np.arange(first, behind - length + 1)
    # The axis increases, so frames are one step apart each exactly when the last is length - 1 steps after the first.
    whole: Rows = starts[times[starts + length - 1] - times[starts] == (length - 1) * step]
    return whole


def windows_cut_by_gaps(times: Times, step: np.timedelta64, length: int, *, part: slice | None = None) -> int:
    """How many windows a part would have besides, were no frame absent inside it."""
    first, behind, _ = (part or slice(None)).indices(len(times))
    if first >= behind:
        return 0
    frames = int((times[behind - 1] - times[first]) / step) + 1
    return max(frames - length + 1, 0) - len(window_starts(times, step, length, part=part))


class Windows(ABC):
    """Batches of windows, the same whether they come from memory or out of a store.

    Each pass gives (history, target, start): (batch, history, channel, y, x), (batch, horizon, channel, y, x), float32,
    and the windows' rows, (batch,). A pass gives every window once. Shuffled, the order is a function of the seed and
    the number of the pass, whatever the machine does; unshuffled, windows come in order of time.

    Attributes:
        starts: the windows' first rows, increasing, from `window_starts`.
        history: frames that the network sees.
        horizon: frames that it is to forecast.
        batch_size: windows a batch; the last one may be smaller.
        seed: None for windows in order, else what shuffles them.
        batches: into how many batches of about the same size a shard is cut; None for no shard.
    """

    starts: Rows
    history: int
    horizon: int
    batch_size: int
    seed: int | None
    batches: int | None

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size) if self.batches is None else self.batches

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    @abstractmethod
    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`, counted from 0."""

    def shard(self, rank: int, world: int) -> Self:
        """The windows of one of `world` processes that train together, a run of the time axis.

        The shards share no window, leave none out, and have as many batches each, which differ by a window at most.
        Only with a batch size of 1, where that cannot be, shards that have a window less give one of theirs twice.

        Args:
            rank: which of the processes, from 0.
            world: how many there are.

        Raises:
            StforecastError: ARGUMENT for a rank that is not there, or more processes than windows.
        """
        if not 0 <= rank < world or world > len(self.starts):
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"wanted a rank from 0 to {world - 1} and no more processes than the {len(self.starts)} windows, got "
                f"rank {rank} of {world}",
            )
        batches = -(-len(self.starts) // (world * self.batch_size))
        return self._part(rank * batches, (rank + 1) * batches, world * batches)

    def _part(self, first: int, behind: int, of: int) -> Self:
        """The windows of batches `first` to `behind` if all of them made `of` batches in order of time."""
        bounds = slice(len(self.starts) * first // of, len(self.starts) * behind // of)
        return replace(self, starts=self.starts[bounds], batches=behind - first)  # type: ignore[type-var]  # subclasses are dataclasses

    def _bounds(self) -> list[tuple[int, int]]:
        """The first place of each batch in a pass, and the one behind it."""
        windows, batches = len(self.starts), len(self)
        if self.batches is None:
            firsts = [batch * self.batch_size for batch in range(batches)]
        else:
            firsts = [windows * batch // batches for batch in range(batches)]
        return [(first, max(behind, first + 1)) for first, behind in pairwise([*firsts, windows])]

    def _generator(self, number: int) -> np.random.Generator | None:
        """What shuffles a pass; shards, which begin at different rows, are shuffled differently."""
        if self.seed is None or not len(self.starts):
            return None
        return np.random.default_rng([self.seed, number, int(self.starts[0])])


@dataclass(frozen=True)
class WindowLoader(Windows):
    """Batches of windows cut out of frames in memory, shuffled completely.

    Attributes:
        frames: (time, channel, y, x), float32, on the device where batches are wanted.
        first_row: the row of the first of the frames on the axis that `starts` counts on.
    """

    frames: torch.Tensor
    starts: Rows
    history: int
    horizon: int
    batch_size: int
    seed: int | None = None
    batches: int | None = None
    first_row: int = 0

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`, counted from 0."""
        generator = self._generator(number)
        starts = self.starts if generator is None else generator.permutation(self.starts)
        cut = _cutter(self.frames, self.history, self.horizon)
        for first, behind in self._bounds():
            some = starts[first:behind]
            yield *cut(some - self.first_row), torch.from_numpy(some)


def _cutter(frames: torch.Tensor, history: int, horizon: int) -> Callable[[Rows], Pair]:
    """What cuts history and target, each of them contiguous, out of frames for windows that begin at some rows."""
    gather = _gatherer(frames)
    seen, asked = np.arange(history), np.arange(history, history + horizon)
    return lambda rows: (gather(rows[:, None] + seen), gather(rows[:, None] + asked))


def _gatherer(frames: torch.Tensor) -> Callable[[Rows], torch.Tensor]:
    """What takes frames by their rows, of any shape."""
    if frames.is_cpu:
        # Twice as fast as indexing by torch; to gather into a buffer that is used again would gain no more than 2 %.
        values = frames.contiguous().numpy()
        return lambda rows: torch.from_numpy(values.take(rows, axis=0))
    return lambda rows: frames[torch.from_numpy(rows).to(frames.device)]


@dataclass(frozen=True)
class StoredFrames:
    """The normalized frames of a store, its variables and their levels stacked into channels.

    Attributes:
        group: a Zarr group; of a store the one that its link `.current` leads to, which never changes.
        names: its variables in the order of the channels.
        arrays: one a variable, (time, [level,] y, x), float32.
    """

    group: Path
    names: tuple[str, ...]
    arrays: tuple[Array, ...]

    @classmethod
    def open(cls, group: str | Path, names: Sequence[str]) -> Self:
        """The frames of some variables of a Zarr group.

        Raises:
            StforecastError: FILE_FORMAT if there is none; VAR_MISSING for a variable that it lacks; STORE_CORRUPT if
                the variables have different times or grids.
        """
        group = Path(group)
        try:
            opened = zarr.open_group(group, mode="r", zarr_format=3)
        except (OSError, ValueError) as error:
            raise StforecastError(ErrorKind.FILE_FORMAT, f"{group} is not a Zarr group: {error}") from error
        arrays = []
        for name in names:
            array = opened.get(name)
            if not isinstance(array, zarr.Array):
                raise StforecastError(ErrorKind.VAR_MISSING, f"{group} has no variable {name}")
            arrays.append(array)
        sizes = {name: (array.shape[0], *array.shape[-2:]) for name, array in zip(names, arrays, strict=True)}
        if len(set(sizes.values())) != 1:
            raise StforecastError(ErrorKind.STORE_CORRUPT, f"the variables of {group} differ in (time, y, x): {sizes}")
        return cls(group, tuple(names), tuple(arrays))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(time, channel, y, x)."""
        frames, *_, y, x = self.arrays[0].shape
        return frames, sum(map(_channels, self.arrays)), y, x

    @property
    def frame_bytes(self) -> int:
        """What one frame of all variables takes in memory."""
        return 4 * int(np.prod(self.shape[1:]))

    @property
    def chunk(self) -> int:
        """Frames that are compressed together."""
        return max(array.chunks[0] for array in self.arrays)

    @property
    def shard(self) -> int:
        """Frames that lie in one file."""
        return max(map(_shard, self.arrays))

    @property
    def reading_bytes(self) -> int:
        """What reading takes besides the place where the frames go."""
        return max(COPIES * _piece(array) * _frame_bytes(array) for array in self.arrays)

    def load(self, rows: slice) -> torch.Tensor:
        """The frames of some rows, (time, channel, y, x).

        Raises:
            StforecastError: what `read_into` raises.
        """
        frames = np.empty((rows.stop - rows.start, *self.shape[1:]), np.float32)
        self.read_into(frames, rows)
        return torch.from_numpy(frames)

    def read_into(self, frames: Frames, rows: slice) -> None:
        """Read some rows into frames (time, channel, y, x).

        Raises:
            StforecastError: STORE_CORRUPT, naming variable and file, if one is damaged, missing or holds NaN.
        """
        channel = 0
        for name, array in zip(self.names, self.arrays, strict=True):
            own = slice(channel, channel + _channels(array))
            channel = own.stop
            for piece in _pieces(array, rows):
                values = self._read(name, array, piece)
                place = slice(piece.start - rows.start, piece.stop - rows.start)
                frames[place, own] = values.reshape(len(values), own.stop - own.start, *values.shape[-2:])

    def _read(self, name: str, array: Array, rows: slice) -> Frames:
        """Rows of one file, finite."""
        try:
            values = np.asarray(array[rows], np.float32)
        except (OSError, RuntimeError, ValueError) as error:
            # A bit that flipped in a chunk is a RuntimeError of zstd's, one in a shard's index a ValueError of zarr's.
            raise self._damaged(name, array, rows, f"reading it gives: {error}") from error
        if not np.isfinite(values).all():
            raise self._damaged(
                name, array, rows, f"rows {rows.start} to {rows.stop - 1} hold values that are not finite"
            )
        return values

    def _damaged(self, name: str, array: Array, rows: slice, fault: str) -> StforecastError:
        key = array.metadata.encode_chunk_key((rows.start // _shard(array), *(0 for _ in array.shape[1:])))
        file = self.group / name / key
        fault = fault if file.is_file() else f"{fault}, because it is missing"
        return StforecastError(
            ErrorKind.STORE_CORRUPT, f"variable {name} is damaged in {file}: {fault}; prepare it anew"
        )


def _channels(array: Array) -> int:
    return int(np.prod(array.shape[1:-2]))


def _shard(array: Array) -> int:
    return int((array.shards or array.chunks)[0])


def _frame_bytes(array: Array) -> int:
    return 4 * int(np.prod(array.shape[1:]))


def _piece(array: Array) -> int:
    """How many frames of an array are read at once: whole chunks, of one file."""
    chunk = int(array.chunks[0])
    return min(max(PIECE_BYTES // (chunk * _frame_bytes(array)), 1) * chunk, _shard(array))


def _pieces(array: Array, rows: slice) -> Iterator[slice]:
    """Rows cut where a file ends, and within a file into what is read at once."""
    shard, piece = _shard(array), _piece(array)
    first = rows.start
    while first < rows.stop:
        inside = first % shard
        behind = min(first - inside + min(inside // piece * piece + piece, shard), rows.stop)
        yield slice(first, behind)
        first = behind


@dataclass(frozen=True)
class Room:
    """How much of a store is in memory at a time.

    Attributes:
        block: in how many successive frames the windows of one block begin; whole chunks.
        frames: how many frames a block has at most: those in which windows begin and those behind that they reach into.
        slots: how many blocks there is place for: one is being read, windows are drawn out of the others.
    """

    block: int
    frames: int
    slots: int

    @classmethod
    def within(cls, memory_limit: int, stored: StoredFrames, length: int, batch_size: int) -> "Room":
        """As many blocks as fit in so many bytes: whole shards if ten of them do, else shorter ones.

        Raises:
            StforecastError: MEMORY_BUDGET, naming what it takes, if two of the shortest do not fit.
        """
        besides = _besides(stored, length, batch_size)
        affordable, overlap = max(memory_limit - besides, 0) // stored.frame_bytes, length - 1
        shortest = _rounded_up(max(overlap, 1), stored.chunk)
        wished = _rounded_up(max(BLOCK_TO_OVERLAP * overlap, 1), stored.shard)
        block = max(min(wished, (affordable // SLOTS - overlap) // stored.chunk * stored.chunk), shortest)
        slots = affordable // (block + overlap)
        if slots < 2:
            needed = besides + 2 * (shortest + overlap) * stored.frame_bytes
            raise StforecastError(
                ErrorKind.MEMORY_BUDGET,
                f"a memory limit of {memory_limit:,} bytes is too little to read windows of {length} frames of "
                f"{stored.frame_bytes:,} bytes in batches of {batch_size}: it takes {needed:,}; raise it, or lower the "
                "batch size",
            )
        return cls(block, block + overlap, slots)


def _besides(stored: StoredFrames, length: int, batch_size: int) -> int:
    """Bytes that reading and batches take besides the frames that are held."""
    return stored.reading_bytes + BATCHES * batch_size * length * stored.frame_bytes


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


@dataclass(frozen=True)
class Itinerary:
    """In which order the blocks of a store are read, and when their windows are given.

    In turn t windows are drawn out of the blocks t, t + 1, … of `blocks`, as many as the pool has; then block t is not
    needed any more.

    Attributes:
        blocks: the rows of each block, in the order of reading.
        starts: the first row of each window, in the order of giving, (window,).
        places: which of the blocks each window is cut out of, (window,).
        turns: the turn that each window is given in, never decreasing, (window,).
    """

    blocks: tuple[slice, ...]
    starts: Rows
    places: Rows
    turns: Rows

    @classmethod
    def through(cls, starts: Rows, length: int, room: Room, generator: np.random.Generator | None) -> "Itinerary":
        """The way through a store that gives every window once.

        A window belongs to the block that it begins in, and a block's rows go as far as its windows do. Shuffled,
        blocks are read in random order; each one's windows are dealt out at random over all the turns that it is in the
        pool for, and the windows of a turn are shuffled.

        Args:
            starts: the windows' first rows, increasing, (window,).
            length: frames in a window.
            room: how long blocks are, and of how many there is place.
            generator: what shuffles; None for windows in order of time.
        """
        _, firsts = np.unique(starts // room.block, return_index=True)
        own = np.split(starts, firsts[1:])
        if generator is None:
            turns = [np.full(len(some), place) for place, some in enumerate(own)]
        else:
            own = [generator.permutation(own[place]) for place in generator.permutation(len(own))]
            turns = _dealt([len(some) for some in own], room.slots - 1)
        places = np.repeat(np.arange(len(own)), [len(some) for some in own])
        given, turn = np.concatenate(own), np.concatenate(turns)
        order = np.arange(len(given)) if generator is None else generator.permutation(len(given))
        order = order[np.argsort(turn[order], kind="stable")]
        blocks = tuple(slice(int(some.min()), int(some.max()) + length) for some in own if len(some))
        return cls(blocks, given[order], places[order], turn[order])


def _dealt(windows: Sequence[int], pool: int) -> list[Rows]:
    """The turn of each window of each block: of about as many in every turn that the block is in the pool for."""
    last = max(len(windows) - pool, 0)
    dealt = []
    for place, number in enumerate(windows):
        first, behind = max(place - pool + 1, 0), min(place, last) + 1
        dealt.append(first + np.arange(number) * (behind - first) // number)
    return dealt


class _Reader:
    """Blocks that one thread reads ahead, each into the place of one that is not needed any more.

    Attributes:
        frames: the frames that were read, (place, channel, y, x).
        positions: where in `frames` each window of the itinerary begins, (window,).
    """

    def __init__(self, stored: StoredFrames, room: Room, way: Itinerary) -> None:
        self._stored, self._blocks, self._slots = stored, way.blocks, min(room.slots, len(way.blocks))
        self._memory = np.empty((self._slots, room.frames, *stored.shape[1:]), np.float32)
        self._reads: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stforecast-windows")
        self.frames = torch.from_numpy(self._memory).flatten(0, 1)
        firsts = np.array([rows.start for rows in way.blocks])
        self.positions = way.places % self._slots * room.frames + way.starts - firsts[way.places]

    def go_to(self, turn: int, behind: int) -> None:
        """Let go of the blocks before `turn`, have as many others read, and wait for those before `behind`."""
        for place in range(len(self._reads), min(turn + self._slots, len(self._blocks))):
            rows = self._blocks[place]
            free = self._memory[place % self._slots, : rows.stop - rows.start]
            self._reads.append(self._thread.submit(self._stored.read_into, free, rows))
        for read in self._reads[turn:behind]:
            read.result()

    def close(self) -> None:
        """End the thread; what it is reading is read, what it was to read is not."""
        self._thread.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class StreamedWindows(Windows):
    """Batches of windows out of a store of any size, with a bounded part of it in memory.

    Blocks of a shard or more are read in random order by a thread ahead of the loop, and windows are drawn out of
    several blocks at a time. So each pass reads the store once, and again the few frames that two blocks share. How
    near this comes to a complete shuffle is seen in the pairs of windows of a batch that overlap: 16 windows of 24
    frames out of nine blocks of 2,048 have 0.3 such pairs on average, completely shuffled over 40 years of hours 0.01.
    Which blocks meet in the pool changes as a pass goes on, and from pass to pass.

    The order is a function of seed, pass and memory limit, since the limit decides how long blocks are.

    Attributes:
        stored: the frames of a store.
        memory_limit: bytes that the blocks, reading them, and three batches may take together. The order of the windows
            takes some 50 bytes each besides. Each process and each worker of a DataLoader has its own.
    """

    stored: StoredFrames
    starts: Rows
    history: int
    horizon: int
    batch_size: int
    memory_limit: int
    seed: int | None = None
    batches: int | None = None

    def __post_init__(self) -> None:
        self.room  # noqa: B018  # a limit that is too low is refused here and not in the first pass

    @cached_property
    def room(self) -> Room:
        """How much is in memory at a time."""
        batch_size = min(self.batch_size, max(len(self.starts), 1))
        return Room.within(self.memory_limit, self.stored, self.history + self.horizon, batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`, counted from 0.

        Raises:
            StforecastError: what `StoredFrames.read_into` raises, at the first batch that needs what cannot be read.
        """
        generator = self._generator(number)
        way = Itinerary.through(self.starts, self.history + self.horizon, self.room, generator)
        pool = 1 if generator is None else self.room.slots - 1
        with closing(_Reader(self.stored, self.room, way)) as reader:
            cut = _cutter(reader.frames, self.history, self.horizon)
            for first, behind in self._bounds():
                turns, positions, pieces = way.turns[first:behind], reader.positions[first:behind], []
                for turn in range(int(turns[0]), int(turns[-1]) + 1):
                    reader.go_to(turn, turn + pool)
                    pieces.append(cut(positions[turns == turn]))
                yield *_joined(pieces), torch.from_numpy(way.starts[first:behind])


def _joined(pieces: Sequence[Pair]) -> Pair:
    """The batch that was cut in several turns, mostly in one."""
    if len(pieces) == 1:
        return pieces[0]
    histories, targets = zip(*pieces, strict=True)
    return torch.cat(histories), torch.cat(targets)


def stored_windows(
    group: str | Path,
    names: Sequence[str],
    starts: Rows,
    history: int,
    horizon: int,
    batch_size: int,
    *,
    memory_limit: int,
    seed: int | None = None,
) -> WindowLoader | StreamedWindows:
    """The windows of a store: read once and cut out of memory if their frames fit, else streamed at each pass.

    Args:
        group: the Zarr group of a store, which its link `.current` leads to.
        names: its variables, in the order of the channels.
        starts: the windows' first rows, increasing, from `window_starts`.
        history: frames that the network sees.
        horizon: frames that it is to forecast.
        batch_size: windows a batch.
        memory_limit: bytes that frames and batches may take.
        seed: None for windows in order, else what shuffles them.

    Raises:
        StforecastError: FILE_FORMAT, VAR_MISSING or STORE_CORRUPT for what cannot be read; MEMORY_BUDGET for a limit
            that is too low to stream.
    """
    stored = StoredFrames.open(group, names)
    length = history + horizon
    rows = rows_of_windows(starts, length)
    if not fits_in_memory(stored, rows, length, min(batch_size, len(starts)), memory_limit):
        return StreamedWindows(stored, starts, history, horizon, batch_size, memory_limit, seed)
    return WindowLoader(stored.load(rows), starts, history, horizon, batch_size, seed, first_row=rows.start)


def fits_in_memory(stored: StoredFrames, rows: slice, length: int, batch_size: int, memory_limit: int) -> bool:
    """Whether some rows of a store can be held besides what reading them and batches of windows take."""
    needed: int = (rows.stop - rows.start) * stored.frame_bytes + _besides(stored, length, batch_size)
    return needed <= memory_limit


def rows_of_windows(starts: Rows, length: int) -> slice:
    """The rows from the first window's first frame to the last one's last; `starts` increase."""
    return slice(int(starts[0]), int(starts[-1]) + length) if len(starts) else slice(0, 0)


@dataclass(frozen=True)
class OnePass(IterableDataset[Batch]):
    """One pass over windows as a dataset for DataLoader(…, batch_size=None), whose workers share the batches.

    A loop over the windows themselves needs no workers: they are read ahead by a thread and gathered at the speed of
    memory. Workers help where each batch is worked on in Python besides.

    Attributes:
        windows: from memory or out of a store.
        number: which pass, counted from 0.
    """

    windows: Windows
    number: int

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Batch]:
        worker, batches = get_worker_info(), len(self.windows)
        if worker is None:
            return self.windows.epoch(self.number)
        first, behind = (batches * place // worker.num_workers for place in (worker.id, worker.id + 1))
        return self.windows._part(first, behind, batches).epoch(self.number)
