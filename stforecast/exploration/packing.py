"""Values as a page holds them: whole numbers of a decimal step, compressed, in letters."""

import base64
import gzip
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stforecast.plot.fields import Values

MISSING = np.int16(-32768)
# A step is at most this part of the range of a variable's values.
_STEPS = 2000


@dataclass(frozen=True)
class Scale:
    """How values become whole numbers of 16 bits: value = (number + origin) · step.

    Attributes:
        decimals: how many digits stand behind the point; below 0, how many zeros before it.
        origin: the middle of the range, in steps.
    """

    decimals: int
    origin: int

    @classmethod
    def of(cls, low: float, high: float) -> "Scale":
        """The scale of values in a range: a power of ten, of which 2,000 to 20,000 fit into it.

        >>> Scale.of(220.0, 310.0)
        Scale(decimals=2, origin=26500)
        """
        spread = high - low or abs(high) or 1.0
        decimals = -int(np.floor(np.log10(spread / _STEPS)))
        return cls(decimals, round((low + high) / 2 * 10.0**decimals))

    def pack(self, values: Values) -> str:
        """Values as text; what is not finite is missing."""
        numbers = np.round(values * 10.0**self.decimals) - self.origin
        return packed(np.where(np.isfinite(numbers), numbers, MISSING).astype("<i2"))

    def unpack(self, text: str, shape: tuple[int, ...]) -> Values:
        """The values of `pack`, NaN where they were not finite."""
        numbers = unpacked(text, np.dtype("<i2")).reshape(shape)
        values = (numbers.astype(np.float64) + self.origin) / 10.0**self.decimals
        return np.where(numbers == MISSING, np.nan, values)


def packed(numbers: npt.NDArray[np.generic]) -> str:
    """The bytes of numbers, the lowest of each first, then the next … : neighbours are alike, and compress better."""
    planes = np.frombuffer(numbers.tobytes(), np.uint8).reshape(-1, numbers.dtype.itemsize).T
    return base64.b64encode(gzip.compress(planes.tobytes(), 6, mtime=0)).decode()


def unpacked(text: str, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """The numbers of `packed`, (number,)."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(dtype.itemsize, -1)
    return np.frombuffer(planes.T.tobytes(), dtype)
