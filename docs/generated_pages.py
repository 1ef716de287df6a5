"""Pages of the documentation that the code itself says: commands, error kinds, model cards, notebooks.

They are made anew by each build, in docs/generated, which git ignores.
"""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

from stforecast.errors import ErrorKind

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
# As `make notebooks` leaves them, with all that they print and draw.
EXECUTED = ROOT / "data" / "runs" / "notebooks"

STATUSES = {
    2: "Usage: The call or its arguments",
    3: "Input: What the raw data, the series or the forecast that was given are like",
    4: "Store: What lies in a store, or does not",
    5: "Model: A fit, or what was saved of one",
    6: "Output: What could not be given although the input was right",
    8: "Age: Published forecasts are too old",
    9: "Schedule: Another scheduled run is at work",
    75: "Later: Another process is at it, and the same command may succeed when it is done",
    130: "Interrupted: By a signal",
}


def command_line() -> str:
    """The page of all verbs with their options, as the command line itself has them."""
    command = [sys.executable, "-m", "typer", "stforecast.cli", "utils", "docs", "--name", "stforecast"]
    page = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = page.replace("# `stforecast`", "# The command line", 1).replace("```console\n$ ", "```sh\n")
    # The list of verbs cuts their descriptions short, and the contents of the page list them anyway.
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", page)


def error_kinds() -> str:
    """The page of all kinds of error, by the exit status that a command ends with."""
    unnamed = {kind.exit_status for kind in ErrorKind} ^ set(STATUSES)
    if unnamed:
        raise ExtensionError(f"the headings of exit statuses {unnamed} are not here, or are of none")
    told = ModuleAnalyzer.for_module("stforecast.errors").find_attr_docs()
    lines = [
        "# Errors and exit statuses",
        "",
        "All that a user can mend is a `stforecast.StforecastError`, which is a `ValueError` with a `kind`. The "
        "command line prints the message with its kind and ends with the kind's status, `kind.exit_status`.",
        "",
        # What it says of the statuses that are no kind's, too.
        " ".join(inspect.cleandoc(ErrorKind.exit_status.__doc__ or "").split("\n\n")[1].split("\n")),
        "",
    ]
    for status, heading in STATUSES.items():
        kinds = [kind for kind in ErrorKind if kind.exit_status == status]
        name, _, meaning = heading.partition(": ")
        lines += [f"## {status}: {name}", "", f"{meaning}.", "", "| kind | what is wrong |", "| --- | --- |"]
        lines += [f"| `{kind}` | {' '.join(told['ErrorKind', kind.name]).strip()} |" for kind in kinds]
        lines.append("")
    return "\n".join(lines)


def notebooks(names: list[str]) -> str:
    """The page that lists the notebooks of these names."""
    said = (
        "`make notebooks` runs them; here they are as they were run last, or bare where they were not."
        if names
        else "There are none."
    )
    return "\n".join(["# Notebooks", "", said, "", "```{toctree}", *(f"notebooks/{name}" for name in names), "```", ""])


def make(*_: Any) -> None:
    """Write all pages that do not stand in docs themselves."""
    # An earlier build's may be of names that are gone. Pages of single names are autosummary's, made after these.
    shutil.rmtree(GENERATED, ignore_errors=True)
    for folder in ("models", "notebooks"):
        (GENERATED / folder).mkdir(parents=True)
    pages = {
        "command_line.md": command_line(),
        "errors.md": error_kinds(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for card in (ROOT / "stforecast" / "pretrained_models").glob("*/README.md"):
        pages[f"models/{card.parent.name}.md"] = card.read_text()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        executed = EXECUTED / notebook.name
        pages[f"notebooks/{notebook.name}"] = (executed if executed.exists() else notebook).read_text()
    pages["notebooks.md"] = notebooks(sorted(Path(name).stem for name in pages if name.startswith("notebooks/")))
    for name, content in pages.items():
        (GENERATED / name).write_text(content)


def link_cards(_app: Any, _docname: str, source: list[str]) -> None:
    """Let what points at the packaged models in the package point at their cards here."""
    source[0] = re.sub(r"\]\(\.\./stforecast/pretrained_models\)", "](reference/models.md)", source[0])


def setup(app: Any) -> dict[str, bool]:
    """Make the pages before any is read."""
    app.connect("builder-inited", make)
    app.connect("source-read", link_cards)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
