"""The code that pages of the documentation show, run as it stands."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from typer.testing import CliRunner

from stforecast.cli import app

# What cannot be run, by a comment of the page that says why.
_NOT_RUN = re.compile(r"<!-- not run: [^>]+-->\n```.*?\n```", flags=re.DOTALL)
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of Python or shell that a page shows and that can be run."""
    return _BLOCK.findall(_NOT_RUN.sub("", page.read_text()))


def python_of(page: Path) -> list[str]:
    """The blocks of Python among them."""
    return [code for language, code in blocks_of(page) if language == "python"]


def run(page: Path, smaller: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """What the names of a page stand for when all its code has run, in this folder, one block after the other.

    Args:
        page: the page.
        smaller: text of the code, and what takes its place.
    """
    shown: dict[str, Any] = {}
    for language, code in blocks_of(page):
        for long, short in smaller.items():
            code = code.replace(long, short)
        if language == "python":
            exec(compile(code, page.name, "exec"), shown)
        else:
            run_commands(code)
    return shown


def run_commands(code: str) -> None:
    """Run the lines of a block of shell, each a call of stforecast."""
    for line in code.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "stforecast", line
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.output}"
