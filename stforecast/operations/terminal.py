"""The state of a pipeline as tables on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stforecast.operations.discretion import printable
from stforecast.operations.status import FAILED, KILLED, Status
from stforecast.operations.words import RUN_HEADINGS, STATES, error_rows, facts, headline, told

_STYLES = {"fresh": "bold blue", "degraded": "bold yellow", "failing": "bold yellow", "stale": "bold red"}


def status_tables(status: Status) -> RenderableType:
    """What is known of a pipeline, to print."""
    sign, words = STATES[status.state]
    parts: list[RenderableType] = [
        Text.assemble((status.pipeline, "bold"), ": ", (f"{sign} {words}", _STYLES[status.state])),
        Text(printable(headline(status))),
        *(Text(f"! {printable(fault)}", "red") for fault in status.faults),
    ]
    tables = [_facts(status), _runs(status), *_skill(status)]
    return Group(*parts, *(Padding(table, (0, 0, 0, 2)) for table in tables if table.row_count))


def _facts(status: Status) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, said in facts(status).items():
        table.add_row(name, Text(printable(said)))
    return table


def _runs(status: Status) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Last runs", title_justify="left", pad_edge=False)
    for heading in RUN_HEADINGS:
        table.add_column(heading, no_wrap=heading != RUN_HEADINGS[-1])
    for run in status.runs:
        style = "red" if run.status in (FAILED, KILLED) else ""
        *cells, message = told(run)
        warned = f"{len(run.warnings)} warning(s)" if run.warnings else ""
        said = ", ".join(part for part in (message, warned) if part)
        table.add_row(*(Text(printable(cell)) for cell in (*cells, said)), style=style)
    return table


def _skill(status: Status) -> list[Table]:
    """A table for each variable: the forecast's error, those of references, and the gain against the best of them."""
    tables = []
    for name, errors in status.skill.get("rmse", {}).items():
        title = f"RMSE of {name} [{status.skill['units'][name]}], {status.skill['forecasts']} forecasts"
        table = Table(box=SIMPLE_HEAD, title=Text(printable(title)), title_justify="left", pad_edge=False)
        for heading in ("lead", *errors, "gain"):
            table.add_column(Text(printable(heading)), justify="right")
        for row in error_rows(errors):
            table.add_row(*row)
        tables.append(table)
    return tables
