"""The models that come with the package, by name."""

from functools import cache
from pathlib import Path

from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import MODEL_FILE, Forecaster

_FOLDER = Path(__file__).parent / "pretrained_models"


def packaged_models() -> tuple[str, ...]:
    """The names of the models that come with the package; docs/models has a card for each."""
    return tuple(sorted(folder.name for folder in _FOLDER.iterdir() if (folder / MODEL_FILE).is_file()))


@cache
def packaged_model(name: str) -> Forecaster:
    """The packaged model of a name; loaded once.

    Raises:
        StforecastError: ARGUMENT for another name.
    """
    if name not in packaged_models():
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"there is no packaged model {name!r}, nor a folder of that name; there are {', '.join(packaged_models())}",
        )
    return Forecaster.load(_FOLDER / name)
