"""The models that come with the package, by name."""

from functools import cache
from pathlib import Path

from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import MODEL_FILE, Forecaster

_FOLDER = Path(__file__).parent / "pretrained_models"


def packaged_models() -> tuple[str, ...]:
    """The names of the models that come with the package; stforecast/pretrained_models has a card for each.

    Examples:
        >>> packaged_models()
        ('new-york-taxi', 'north-america-air', 'north-atlantic-pressure')
    """
    return tuple(sorted(folder.name for folder in _FOLDER.iterdir() if (folder / MODEL_FILE).is_file()))


def _listed() -> str:
    return ", ".join(packaged_models()) or "none"


def load_model(model: str | Path) -> Forecaster:
    """The forecaster of a folder, or the packaged one of a name.

    Raises:
        StforecastError: FILE_MISSING for a name that is neither; what `Forecaster.load` refuses.
    """
    if isinstance(model, str) and not Path(model).exists() and model == Path(model).name:
        return packaged_model(model)
    return Forecaster.load(model)


@cache
def packaged_model(name: str) -> Forecaster:
    """The packaged model of a name; loaded once.

    Raises:
        StforecastError: FILE_MISSING for another name.
    """
    if name not in packaged_models():
        raise StforecastError(
            ErrorKind.FILE_MISSING,
            f"there is no packaged model {name!r}, nor a folder of that name; packaged are {_listed()}",
        )
    return Forecaster.load(_FOLDER / name)
