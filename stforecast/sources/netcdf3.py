"""How many bytes a netCDF-3 file must have, from its header: the C library reads one that is cut short in silence."""

import struct
from pathlib import Path
from typing import BinaryIO

from stforecast.errors import ErrorKind, StforecastError

_TYPE_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12


def is_netcdf3(magic: bytes) -> bool:
    """Whether a file that begins so is netCDF-3."""
    return magic[:3] == b"CDF" and magic[3:4] in (b"\x01", b"\x02", b"\x05")


def netcdf3_size(file: BinaryIO, path: Path) -> int:
    """Bytes up to the end of the last value that the header of an opened file places.

    Raises:
        StforecastError: FILE_FORMAT, naming the file, if the header makes no sense.
    """
    try:
        return _Header(file).size()
    except (struct.error, ValueError, KeyError, IndexError, OSError, OverflowError) as error:
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} is cut short or damaged in its netCDF-3 header; fetch the file anew"
        ) from error


class _Header:
    """The header of a netCDF-3 file, read in order (NetCDF User's Guide, Appendix B: CDF-1, CDF-2 and CDF-5)."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(3)
        self._file = file
        version = file.read(1)[0]
        self._count = ">Q" if version == 5 else ">I"
        self._offset = ">I" if version == 1 else ">Q"

    def _number(self, form: str) -> int:
        content = self._file.read(struct.calcsize(form))
        return int(struct.unpack(form, content)[0])

    def _skip(self, length: int) -> None:
        self._file.seek(-(-length // 4) * 4, 1)

    def _items(self, tag: int) -> range:
        found, count = self._number(">I"), self._number(self._count)
        if found not in (0, tag):
            raise ValueError(f"tag {found} where {tag} is due")
        return range(count)

    def _attributes(self) -> None:
        for _ in self._items(_ATTRIBUTE):
            self._skip(self._number(self._count))
            kind = self._number(">I")
            self._skip(self._number(self._count) * _TYPE_SIZE[kind])

    def size(self) -> int:
        """Bytes up to the end of the last value that the header places."""
        records = self._number(self._count)
        is_streaming = records == 2 ** (8 * struct.calcsize(self._count)) - 1
        lengths = []
        for _ in self._items(_DIMENSION):
            self._skip(self._number(self._count))
            lengths.append(self._number(self._count))
        self._attributes()
        variables = [self._variable(lengths) for _ in self._items(_VARIABLE)]
        ends = [begin + length for begin, length, is_record in variables if not is_record]
        of_records = [(begin, length) for begin, length, is_record in variables if is_record]
        if records and not is_streaming:
            # The values of one record are padded to four bytes each, but for those of an only variable.
            padded = [-(-length // 4) * 4 for _, length in of_records]
            record = sum(padded) if len(padded) > 1 else sum(length for _, length in of_records)
            ends += [begin + (records - 1) * record + length for begin, length in of_records]
        return max(ends, default=self._file.tell())

    def _variable(self, lengths: list[int]) -> tuple[int, int, bool]:
        """Where a variable begins, its bytes (of one record, if it has records), and whether it has."""
        self._skip(self._number(self._count))
        shape = [lengths[self._number(self._count)] for _ in range(self._number(self._count))]
        self._attributes()
        length = _TYPE_SIZE[self._number(">I")]
        self._number(self._count)  # its size in bytes, which overflows in large files: the shape says it better
        is_record = bool(shape) and shape[0] == 0
        for extent in shape[1:] if is_record else shape:
            length *= extent
        return self._number(self._offset), length, is_record
