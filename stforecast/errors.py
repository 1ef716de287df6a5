"""What stforecast raises when the data, a store or a model is not what was asked for."""

import re
from enum import StrEnum
from operator import index

# Looked for at the beginning of a word and no further, so that a long text takes no longer than its length says.
URL = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s'\"<>]+")


def without_credentials(text: str) -> str:
    """A text whose URLs have neither a user's name and password nor a query, which may hold a signature.

    >>> without_credentials("nothing at https://me:word@example.org/air.zarr?sig=1")
    'nothing at https://example.org/air.zarr?…'
    """
    return URL.sub(lambda url: re.sub(r"[?#].*", "?…", re.sub(r"//[^/@]*@", "//", url[0])), text)


class ErrorKind(StrEnum):
    """Kinds of fault, so that a program can tell them apart; the message carries the specifics."""

    ARGUMENT = "ARGUMENT"
    """A choice that is none, or that contradicts another."""
    BACKEND = "BACKEND"
    """A backend that is not installed, fails, or differs from the network."""
    CF_CHECK = "CF_CHECK"
    """Metadata that contradict the CF conventions or the data; `inspect` warns of it."""
    CHANNELS = "CHANNELS"
    """Other variables or levels than the other side has."""
    CKPT_CORRUPT = "CKPT_CORRUPT"
    """A saved model or checkpoint that was changed or cut after it was written."""
    CKPT_INCOMPLETE = "CKPT_INCOMPLETE"
    """A saved model that lacks a part, such as the calibration that an interval needs."""
    CKPT_MISMATCH = "CKPT_MISMATCH"
    """Weights that do not fit the network, or are none."""
    CKPT_ROLLBACK = "CKPT_ROLLBACK"
    """A scheduled run whose model is one that was in use before; the run goes on and says so."""
    CKPT_UNSAFE = "CKPT_UNSAFE"
    """A checkpoint that holds more than tensors and plain values; nothing of it is run."""
    CONFIG_UNKNOWN_KEY = "CONFIG_UNKNOWN_KEY"
    """A settings file with a key that is none."""
    CONFIG_UNSAFE = "CONFIG_UNSAFE"
    """A settings file with more than plain values."""
    CONFLICT = "CONFLICT"
    """Other values for frames that the store has already."""
    CONST = "CONST"
    """A variable that does not vary, so that it cannot be normalized."""
    DIMS = "DIMS"
    """Dimensions that are not there, or that nothing tells the meaning of."""
    DISK_FULL = "DISK_FULL"
    """No room on the disk; what was there before is intact."""
    EMPTY_SELECTION = "EMPTY_SELECTION"
    """A selection or a common sample that nothing is left of."""
    FILE_BUSY = "FILE_BUSY"
    """A file that is being written, or that changed since it was opened."""
    FILE_CHECKSUM = "FILE_CHECKSUM"
    """A file whose SHA-256 is not the one that lies beside it."""
    FILE_FORMAT = "FILE_FORMAT"
    """A file of another format than was wanted, or a damaged one."""
    FILE_MISSING = "FILE_MISSING"
    """Nothing is at the path, or a part of it is missing."""
    FILE_TIMEOUT = "FILE_TIMEOUT"
    """A file that did not open in time: damaged, or on a disk that is away."""
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    """A file that declares more than can be, which is not read."""
    FILE_TRUNCATED = "FILE_TRUNCATED"
    """A file that is cut short."""
    FILE_UNSAFE = "FILE_UNSAFE"
    """A file with Python objects, which are never unpickled."""
    FILE_UNSAFE_HDF5 = "FILE_UNSAFE_HDF5"
    """An HDF5 file that points at other files or in a circle."""
    FILE_UNSAFE_ZARR = "FILE_UNSAFE_ZARR"
    """A Zarr store with objects or with codecs that are not plain."""
    GRID_LON = "GRID_LON"
    """Longitudes whose other convention would tear neighbouring columns apart."""
    GRID_SHAPE = "GRID_SHAPE"
    """Another grid than was wanted, or one that the work cannot be done on."""
    INF = "INF"
    """Infinite values."""
    INPUT_CHANGED = "INPUT_CHANGED"
    """Data that changed while they were read."""
    INPUT_INCOMPLETE = "INPUT_INCOMPLETE"
    """Frames are wanting for a scheduled run because a file that came was refused."""
    INPUT_LATE = "INPUT_LATE"
    """Frames that a scheduled run needs have not come yet."""
    INPUT_STALE = "INPUT_STALE"
    """What came last for a scheduled run has only frames that were there already."""
    INTERRUPTED = "INTERRUPTED"
    """Ended by SIGINT, with status 130, or by SIGTERM, with 143."""
    IO_ERROR = "IO_ERROR"
    """A fault of the disk or the file system."""
    LEAK = "LEAK"
    """Periods of a split that overlap."""
    LOCK_UNSUPPORTED = "LOCK_UNSUPPORTED"
    """A file system without locks, on which two writers could spoil a store."""
    MEMORY_BUDGET = "MEMORY_BUDGET"
    """More memory is needed than is there or allowed."""
    METADATA = "METADATA"
    """Attributes that are missing, contradict the data, or differ from the other side's."""
    NAN = "NAN"
    """Values that are not there."""
    OUTPUT_EXISTS = "OUTPUT_EXISTS"
    """Something is there already and is not replaced."""
    OUTPUT_INVALID = "OUTPUT_INVALID"
    """A forecast whose values cannot be, or have drifted away."""
    PATH_ESCAPE = "PATH_ESCAPE"
    """A name that cannot be one inside a store."""
    PERMISSION = "PERMISSION"
    """A place that this user may not write."""
    RANGE = "RANGE"
    """Values that their units rule out."""
    READBACK = "READBACK"
    """A file that was not read back as it was written."""
    RESUME_MISMATCH = "RESUME_MISMATCH"
    """An interrupted fit that was begun with another configuration, data or versions."""
    RUN_ACTIVE = "RUN_ACTIVE"
    """Another scheduled run is at work on the same output, or another fit in the same folder."""
    SHAPE = "SHAPE"
    """Arrays of another shape or type than was wanted."""
    STALE_OUTPUT = "STALE_OUTPUT"
    """The newest scheduled forecast is older than it may be."""
    STATS = "STATS"
    """Statistics of something else, or values far from all that the model was fitted on."""
    STATS_STALE = "STATS_STALE"
    """A store whose statistics are not those of its training frames."""
    STORE_BUSY = "STORE_BUSY"
    """Another process writes the store or the output."""
    STORE_CORRUPT = "STORE_CORRUPT"
    """A store with a damaged file."""
    STORE_INCOMPLETE = "STORE_INCOMPLETE"
    """A store that lacks a file."""
    STORE_VERSION = "STORE_VERSION"
    """A store or a model of a newer version."""
    TIMEOUT = "TIMEOUT"
    """Work that took longer than it may."""
    TIME_CALENDAR = "TIME_CALENDAR"
    """A calendar whose days are other days."""
    TIME_DST = "TIME_DST"
    """Times that a city's clock shows twice or never."""
    TIME_DUPLICATE = "TIME_DUPLICATE"
    """Times that are there twice."""
    TIME_FREQ = "TIME_FREQ"
    """Another step than was wanted, or a step that changes."""
    TIME_GAP = "TIME_GAP"
    """Frames that are absent and were not declared to be."""
    TIME_NAT = "TIME_NAT"
    """Rows without a time."""
    TIME_ORDER = "TIME_ORDER"
    """Times that do not increase."""
    TIME_OVERLAP = "TIME_OVERLAP"
    """Files that cover the same times."""
    TIME_PRECISION = "TIME_PRECISION"
    """Times that are kept too coarsely to tell frames apart."""
    TIME_RANGE = "TIME_RANGE"
    """Times that the data do not have."""
    TIME_SHORT = "TIME_SHORT"
    """Too few frames for what is asked for."""
    TIME_SLOT = "TIME_SLOT"
    """A TaxiBJ slot that is none."""
    TIME_UNITS = "TIME_UNITS"
    """Times or lead times without units."""
    TRAIN_DIVERGED = "TRAIN_DIVERGED"
    """A loss that stopped being finite."""
    UNITS = "UNITS"
    """Units that are missing, or that measure something else."""
    VAR_MISSING = "VAR_MISSING"
    """A variable that is not there."""
    WORKER_LOST = "WORKER_LOST"
    """Workers of a cluster that died over a block."""

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


def check_counts(**counts: object) -> None:
    """Refuse what is no whole number of at least 1, by its name.

    Raises:
        StforecastError: ARGUMENT.

    >>> check_counts(history=4, horizon=12)
    """
    for name, value in counts.items():
        try:
            count = index(value)  # type: ignore[arg-type]  # what it takes is the question
        except TypeError:
            raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be a whole number, not {value!r}") from None
        if count < 1:
            raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be at least 1, not {value}")


class StforecastError(ValueError):
    """A fault that a user can mend: what was wanted, what came and what to do, with its kind.

    It tells of no URL what lets one in.

    Attributes:
        kind: the kind of fault, stable across releases.

    Examples:
        >>> import stforecast as stf
        >>> try:
        ...     stf.open_store("nowhere.zarr")
        ... except stf.StforecastError as error:
        ...     error.kind
        <ErrorKind.FILE_MISSING: 'FILE_MISSING'>
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(without_credentials(message))
        self.kind = kind

    def __reduce__(self) -> tuple[type["StforecastError"], tuple[ErrorKind, str]]:
        # An exception raised on a dask worker travels pickled; the default would call __init__ with the message alone.
        return type(self), (self.kind, str(self))
