"""What stforecast raises when the data, a store or a model is not what was asked for."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """Kinds of fault, so that a program can tell them apart; the message carries the specifics."""

    ARGUMENT = "ARGUMENT"
    CF_CHECK = "CF_CHECK"
    CHANNELS = "CHANNELS"
    CKPT_CORRUPT = "CKPT_CORRUPT"
    CKPT_INCOMPLETE = "CKPT_INCOMPLETE"
    CKPT_MISMATCH = "CKPT_MISMATCH"
    CONFLICT = "CONFLICT"
    CONST = "CONST"
    DIMS = "DIMS"
    DISK_FULL = "DISK_FULL"
    EMPTY_SELECTION = "EMPTY_SELECTION"
    FILE_BUSY = "FILE_BUSY"
    FILE_CHECKSUM = "FILE_CHECKSUM"
    FILE_FORMAT = "FILE_FORMAT"
    FILE_MISSING = "FILE_MISSING"
    FILE_TIMEOUT = "FILE_TIMEOUT"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    FILE_TRUNCATED = "FILE_TRUNCATED"
    FILE_UNSAFE = "FILE_UNSAFE"
    FILE_UNSAFE_HDF5 = "FILE_UNSAFE_HDF5"
    FILE_UNSAFE_ZARR = "FILE_UNSAFE_ZARR"
    GRID_LON = "GRID_LON"
    GRID_SHAPE = "GRID_SHAPE"
    INF = "INF"
    INPUT_CHANGED = "INPUT_CHANGED"
    IO_ERROR = "IO_ERROR"
    LEAK = "LEAK"
    MEMORY_BUDGET = "MEMORY_BUDGET"
    METADATA = "METADATA"
    NAN = "NAN"
    OUTPUT_EXISTS = "OUTPUT_EXISTS"
    OUTPUT_INVALID = "OUTPUT_INVALID"
    PATH_ESCAPE = "PATH_ESCAPE"
    PERMISSION = "PERMISSION"
    RANGE = "RANGE"
    READBACK = "READBACK"
    SHAPE = "SHAPE"
    STATS = "STATS"
    STATS_STALE = "STATS_STALE"
    STORE_BUSY = "STORE_BUSY"
    STORE_CORRUPT = "STORE_CORRUPT"
    STORE_INCOMPLETE = "STORE_INCOMPLETE"
    STORE_VERSION = "STORE_VERSION"
    TIME_CALENDAR = "TIME_CALENDAR"
    TIME_DST = "TIME_DST"
    TIME_DUPLICATE = "TIME_DUPLICATE"
    TIME_FREQ = "TIME_FREQ"
    TIME_GAP = "TIME_GAP"
    TIME_NAT = "TIME_NAT"
    TIME_ORDER = "TIME_ORDER"
    TIME_OVERLAP = "TIME_OVERLAP"
    TIME_PRECISION = "TIME_PRECISION"
    TIME_RANGE = "TIME_RANGE"
    TIME_SHORT = "TIME_SHORT"
    TIME_SLOT = "TIME_SLOT"
    TIME_UNITS = "TIME_UNITS"
    TRAIN_DIVERGED = "TRAIN_DIVERGED"
    UNITS = "UNITS"
    VAR_MISSING = "VAR_MISSING"


class StforecastError(ValueError):
    """A fault that a user can mend: what was wanted, what came and what to do, with its kind.

    Attributes:
        kind: the kind of fault, stable across releases.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type["StforecastError"], tuple[ErrorKind, str]]:
        # An exception raised on a dask worker travels pickled; the default would call __init__ with the message alone.
        return type(self), (self.kind, str(self))
