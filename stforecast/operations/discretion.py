"""What may be told of a run: texts without secrets, without where files lie, and without what a terminal would obey."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stforecast.errors import URL, without_credentials
from stforecast.operations.pipeline import Pipeline
from stforecast.sources.raw_files import is_url

# Not the slash of a unit or of a part of a path, which has a letter, a digit or a dot before it.
_FOLDERS = re.compile(r"(?<![\w.:/~*?-])/(?:[^\s/'\"<>:;,()]+/)+")


@dataclass(frozen=True)
class Discretion:
    """What may be told of a pipeline to those who read its forecasts, records, logs and page.

    Attributes:
        folders: those in which its places lie, longest first; they are left out, so that files are named from there.
        secrets: texts that are never told.
    """

    folders: tuple[str, ...]
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Discretion":
        """That of a pipeline: its webhook is secret, and its input, store, model and output are named by themselves."""
        places = [pipeline.store, pipeline.output, Path(pipeline.model), *(one.store for one in pipeline.fallback)]
        places += [Path(one.model) for one in pipeline.fallback if one.model is not None]
        places += [] if pipeline.monitor.prometheus is None else [pipeline.monitor.prometheus]
        places += [] if is_url(pipeline.input.path) else [_outside_of(Path(pipeline.input.path))]
        folders = {str(place.parent) for place in places if place is not None and place.is_absolute()} - {"/"}
        secrets = () if pipeline.monitor.webhook is None else (pipeline.monitor.webhook,)
        return cls(tuple(sorted(folders, key=len, reverse=True)), secrets)

    def text(self, said: str) -> str:
        """A text in which files are named without where they lie, and URLs without what lets one in.

        >>> Discretion(("/srv/my data",)).text("/srv/my data/in/a.nc and /home/me/b.nc; see s3://key:word@bucket/c?sig=1")
        'in/a.nc and b.nc; see s3://bucket/c?…'
        """
        for secret in self.secrets:
            said = said.replace(secret, "…")
        for folder in self.folders:
            said = said.replace(f"{folder}/", "")
        parts, end = [], 0
        for url in URL.finditer(said):
            parts += [_FOLDERS.sub("", said[end : url.start()]), _address(url[0])]
            end = url.end()
        return "".join([*parts, _FOLDERS.sub("", said[end:])])

    def record(self, value: Any) -> Any:
        """A record whose texts are told so, and whose numbers are ones that JSON has."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {key: self.record(inside) for key, inside in value.items()}
        return [self.record(inside) for inside in value] if isinstance(value, list | tuple) else value


def _address(url: str) -> str:
    return url.rpartition("/")[2] if url.startswith(("file://", "local://")) else without_credentials(url)


def _outside_of(path: Path) -> Path:
    """The last part of a path in which no name is a pattern."""
    while {"*", "?", "["} & set(str(path)):
        path = path.parent
    return path


def printable(text: str) -> str:
    r"""A text in which whatever is no letter, sign or space is written out, so that no name that others gave is obeyed.

    >>> printable("a\x1b[31m.nc\n\u202eb")
    'a\\x1b[31m.nc \\u202eb'
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else _written_out(one) for one in text)


def _written_out(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode()
