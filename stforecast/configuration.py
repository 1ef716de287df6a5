"""Settings out of YAML files: plain values alone, and every key has to be known."""

import re
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from stforecast.errors import ErrorKind, StforecastError

# A pipeline has some hundred values; an alias of an alias of an alias can stand for more than memory holds.
_LARGEST_FILE = 2**20
_MOST_VALUES = 10_000


class Section(BaseModel):
    """Settings of which each has to be known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


def _parse_duration(said: object) -> timedelta:
    if isinstance(said, timedelta):
        return said
    parts = re.findall(r"(\d+)\s*(min|[smhd])\s*", said) if isinstance(said, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", str(said)):
        raise ValueError("wanted a length of time with its unit, such as 45m, 6h or 30d")
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))


def parse_duration(said: str, *, name: str) -> timedelta:
    """A length of time, as 45m, 6h or 30d.

    Raises:
        StforecastError: ARGUMENT, saying what `name` was given, if it is none.
    """
    try:
        return _parse_duration(said)
    except ValueError as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{name}: {error}, got {said!r}") from error


# A length of time, as 45m, 6h or 30d.
Duration = Annotated[timedelta, BeforeValidator(_parse_duration)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and plain values of a YAML file.

    Raises:
        StforecastError: ARGUMENT if there is no such file, it is no YAML, has no keys or one twice; CONFIG_UNSAFE for
            tags that would make objects; FILE_TOO_LARGE for more than settings can be.
    """
    if path.is_dir():
        raise StforecastError(ErrorKind.ARGUMENT, f"{path} is a folder; wanted the YAML file of settings")
    if not path.is_file():
        raise StforecastError(ErrorKind.ARGUMENT, f"there is no file {path}; check the path")
    if path.stat().st_size > _LARGEST_FILE:
        raise StforecastError(
            ErrorKind.FILE_TOO_LARGE,
            f"{path} has {path.stat().st_size:,} bytes; settings have {_LARGEST_FILE:,} at most",
        )
    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if _count(node, {}) > _MOST_VALUES:
            raise StforecastError(
                ErrorKind.FILE_TOO_LARGE, f"{path} stands for more than {_MOST_VALUES:,} values; write them out"
            )
        _check_keys(node, path)
        known = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        raise StforecastError(
            ErrorKind.CONFIG_UNSAFE, f"{path}: {' '.join(str(error).split())}; settings are plain values, without tags"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{path} is no YAML: {_without_lines(error)}") from error
    if not isinstance(known, dict):
        raise StforecastError(ErrorKind.ARGUMENT, f"{path} has no settings, wanted lines such as 'name: air'")
    return known


def _without_lines(error: Exception) -> str:
    """What is wrong with YAML and where, without the lines themselves, which may hold what nobody is to see."""
    for mark in (getattr(error, "context_mark", None), getattr(error, "problem_mark", None)):
        if mark is not None:
            mark.buffer = None
    return " ".join(str(error).split())


def _count(node: Any, counted: dict[int, int]) -> int:
    """How many values a node stands for, each alias counted as what it repeats."""
    if id(node) not in counted:
        counted[id(node)] = 1  # an alias of itself
        inside: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            inside = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        counted[id(node)] = 1 + sum(_count(each, counted) for each in inside)
    return counted[id(node)]


def _check_keys(node: Any, path: Path) -> None:
    """Refuse a key that stands twice in one mapping, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            _check_keys(value, path)
            if not isinstance(key, yaml.ScalarNode):
                # What such a key is refused for is told where values are made of it.
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise StforecastError(
                    ErrorKind.ARGUMENT,
                    f"{path} has the key {key.value} in line {seen[key.value]} and again in line {line}; keep one",
                )
            seen[key.value] = line
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_keys(each, path)


def checked(settings: dict[str, Any], model: type[Model], *, where: object) -> Model:
    """Settings as the model has them.

    Raises:
        StforecastError: CONFIG_UNKNOWN_KEY, naming the nearest key; ARGUMENT, naming the key, for one that is missing
            or a value that cannot be.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        unknown = any(one["type"] == "extra_forbidden" for one in error.errors())
        raise StforecastError(
            ErrorKind.CONFIG_UNKNOWN_KEY if unknown else ErrorKind.ARGUMENT,
            f"{where}: " + "; ".join(_explain(one, model) for one in error.errors()),
        ) from error


def _explain(error: Any, model: type[BaseModel]) -> str:
    """What is wrong with one setting; with the nearest key in place of an unknown one.

    What was given is said unless the setting's repr hides it.
    """
    path = [str(part) for part in error["loc"]] or [""]
    key = ".".join(path)
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], list(_fields_at(path[:-1], model)), 1, cutoff=0.0)[0]
        return f"unknown key {key}; the nearest is {'.'.join([*path[:-1], near])}"
    what = error["msg"].removeprefix("Value error, ")
    field = _fields_at(path[:-1], model).get(path[-1])
    shown = "" if field is not None and not field.repr else f", got {error['input']!r}"
    return f"{key}: {what}{shown}" if key else what


def _fields_at(path: list[str], model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The settings of the section that keys lead to, by name; none if it is no section."""
    for part in path:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            annotation = next((inner for inner in get_args(annotation) if inner is not type(None)), None)
            if annotation is None:
                return {}
        model = annotation
    return model.model_fields
