"""What stforecast raises when the data, a store or a model is not what was asked for."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """Kinds of fault, so that a program can tell them apart; the message carries the specifics."""

    ARGUMENT = "ARGUMENT"
    BACKEND = "BACKEND"
    CF_CHECK = "CF_CHECK"
    CHANNELS = "CHANNELS"
    CKPT_CORRUPT = "CKPT_CORRUPT"
    CKPT_INCOMPLETE = "CKPT_INCOMPLETE"
    CKPT_MISMATCH = "CKPT_MISMATCH"
    CKPT_ROLLBACK = "CKPT_ROLLBACK"
    CKPT_UNSAFE = "CKPT_UNSAFE"
    CONFIG_UNKNOWN_KEY = "CONFIG_UNKNOWN_KEY"
    CONFIG_UNSAFE = "CONFIG_UNSAFE"
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
    INPUT_INCOMPLETE = "INPUT_INCOMPLETE"
    INPUT_LATE = "INPUT_LATE"
    INPUT_STALE = "INPUT_STALE"
    INTERRUPTED = "INTERRUPTED"
    IO_ERROR = "IO_ERROR"
    LEAK = "LEAK"
    LOCK_UNSUPPORTED = "LOCK_UNSUPPORTED"
    MEMORY_BUDGET = "MEMORY_BUDGET"
    METADATA = "METADATA"
    NAN = "NAN"
    OUTPUT_EXISTS = "OUTPUT_EXISTS"
    OUTPUT_INVALID = "OUTPUT_INVALID"
    PATH_ESCAPE = "PATH_ESCAPE"
    PERMISSION = "PERMISSION"
    RANGE = "RANGE"
    READBACK = "READBACK"
    RESUME_MISMATCH = "RESUME_MISMATCH"
    RUN_ACTIVE = "RUN_ACTIVE"
    SHAPE = "SHAPE"
    STALE_OUTPUT = "STALE_OUTPUT"
    STATS = "STATS"
    STATS_STALE = "STATS_STALE"
    STORE_BUSY = "STORE_BUSY"
    STORE_CORRUPT = "STORE_CORRUPT"
    STORE_INCOMPLETE = "STORE_INCOMPLETE"
    STORE_VERSION = "STORE_VERSION"
    TIMEOUT = "TIMEOUT"
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
    WORKER_LOST = "WORKER_LOST"

    @property
    def exit_status(self) -> int:
        """The status that a command ends with: 2 usage, 3 input, 4 store, 5 model, 6 output, 75 try again later.

        Output (6) is what could not be given: a forecast that failed its check, or what disk, memory, permissions, time
        or workers did not allow. A scheduled run that another one keeps waiting ends with 9, and one that published a
        forecast from less than it wanted with 7; `stforecast status` ends with 8 where forecasts are too old.

        >>> ErrorKind.TIME_GAP.exit_status, ErrorKind.FILE_BUSY.exit_status
        (3, 75)
        """
        return _EXIT_STATUS.get(self, 3)


_EXIT_STATUS = {
    kind: status
    for status, kinds in {
        2: (
            ErrorKind.ARGUMENT,
            ErrorKind.CONFIG_UNKNOWN_KEY,
            ErrorKind.CONFIG_UNSAFE,
            ErrorKind.OUTPUT_EXISTS,
            ErrorKind.PATH_ESCAPE,
        ),
        4: (
            ErrorKind.READBACK,
            ErrorKind.STATS_STALE,
            ErrorKind.STORE_CORRUPT,
            ErrorKind.STORE_INCOMPLETE,
            ErrorKind.STORE_VERSION,
        ),
        5: (
            ErrorKind.CKPT_CORRUPT,
            ErrorKind.CKPT_INCOMPLETE,
            ErrorKind.CKPT_MISMATCH,
            ErrorKind.CKPT_ROLLBACK,
            ErrorKind.CKPT_UNSAFE,
            ErrorKind.LEAK,
            ErrorKind.RESUME_MISMATCH,
            ErrorKind.TRAIN_DIVERGED,
        ),
        6: (
            ErrorKind.DISK_FULL,
            ErrorKind.IO_ERROR,
            ErrorKind.LOCK_UNSUPPORTED,
            ErrorKind.MEMORY_BUDGET,
            ErrorKind.OUTPUT_INVALID,
            ErrorKind.PERMISSION,
            ErrorKind.TIMEOUT,
            ErrorKind.WORKER_LOST,
        ),
        8: (ErrorKind.STALE_OUTPUT,),
        9: (ErrorKind.RUN_ACTIVE,),
        # By SIGINT; SIGTERM ends with 143.
        130: (ErrorKind.INTERRUPTED,),
        # What another process is doing just now; the same command may well succeed when it is done.
        75: (
            ErrorKind.FILE_BUSY,
            ErrorKind.INPUT_CHANGED,
            ErrorKind.INPUT_LATE,
            ErrorKind.INPUT_STALE,
            ErrorKind.STORE_BUSY,
        ),
    }.items()
    for kind in kinds
}


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
