"""The teaching notebooks: `make notebooks` executes them, `python pipelines/notebook_runs.py --strip` tidies them.

The notebooks in notebooks/ are kept without outputs, in one normal form. Executed copies are written into
data/runs/notebooks. They run on the real series where STFORECAST_DATA names their folder, else on generated ones. A
warning, a line on the error stream, a call for the network or more than two minutes are failures.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

NOTEBOOKS = Path("notebooks")
EXECUTED = Path("data/runs/notebooks")
# A notebook that takes longer is no lesson any more, and all of them run in CI.
SECONDS = 120

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# What the kernel executes before the first cell. An audit hook sees Python's own sockets, not those of the kernel.
RULES = """
import socket, sys, warnings
def _refuse(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and arguments[0].family != socket.AF_UNIX:
        raise OSError("notebooks run without the network")
sys.addaudithook(_refuse)
warnings.simplefilter("error")
# Its shutdown warns of itself.
warnings.filterwarnings("ignore", module="ipykernel")
"""


def main(arguments: Sequence[str]) -> None:
    """Execute the notebooks that are named, or all; or strip all."""
    paths = [Path(name) for name in arguments if name != "--strip"] or sorted(NOTEBOOKS.glob("*.ipynb"))
    if "--strip" in arguments:
        for path in paths:
            path.write_text(stripped(path.read_text()))
        return
    console = Console()
    console.print("real series" if os.environ.get("STFORECAST_DATA") else "generated series (no STFORECAST_DATA)")
    for path in paths:
        start = time.monotonic()
        faults = execute(path, EXECUTED / path.name)
        console.print(f"{path.name}: {time.monotonic() - start:.0f} s")
        if faults:
            sys.exit(f"{path} failed; {EXECUTED / path.name} has all outputs:\n" + "\n".join(faults))


def stripped(text: str) -> str:
    """A notebook's text without outputs, counts and metadata, as Jupyter would lay it out."""
    notebook = json.loads(text)
    cells = [_bare(cell) for cell in notebook["cells"]]
    kept = {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _bare(cell: dict[str, Any]) -> dict[str, Any]:
    source = "".join(cell["source"]).strip("\n").splitlines(keepends=True)
    bare = {"cell_type": cell["cell_type"], "id": cell["id"], "metadata": {}, "source": source}
    return bare | {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else bare


def execute(path: Path, executed: Path) -> list[str]:
    """What went wrong in a notebook, nothing if nothing did; the executed copy is written in either case."""
    # The tests of this module, and those who only strip, do without Jupyter.
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    notebook = nbformat.read(path, as_version=4)
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        rules, last_words = Path(folder) / "rules.py", Path(folder) / "last_words"
        # Where a library crashes, in which thread: the kernel keeps its own error stream to itself.
        rules.write_text(f"{RULES}import faulthandler\nfaulthandler.enable(open({str(last_words)!r}, 'w'))\n")
        work, scratch = Path(folder) / "work", Path(folder) / "scratch"
        work.mkdir()
        scratch.mkdir()
        # The command line of this environment, and temporary files that go with the notebook.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        beside = {"PATH": search, "TMPDIR": str(scratch)}
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name=KERNEL["name"],
            resources={"metadata": {"path": str(work)}},
            extra_arguments=[f"--IPKernelApp.exec_files={rules}"],
            # No port is opened.
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(Path(folder) / "kernel")}}),
        )
        start = time.monotonic()
        try:
            with client.setup_kernel(env=os.environ | beside):
                for number, cell in enumerate(notebook.cells):
                    client.timeout = max(SECONDS - int(time.monotonic() - start), 1)
                    client.execute_cell(cell, number)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            faults.append(str(error))
            if isinstance(error, DeadKernelError):
                faults.append(last_words.read_text(errors="replace"))
        faults += [f"left {left.name} in its folder; write into temporary folders" for left in work.iterdir()]
    faults += [f"on the error stream: {line}" for line in _errors_of(notebook)]
    executed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, executed)
    return faults


def _errors_of(notebook: Any) -> list[str]:
    """What cells wrote on the error stream."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    written = (output["text"] for output in outputs if output.get("name") == "stderr")
    return [re.sub(r"\s+", " ", text) for text in written]


if __name__ == "__main__":
    main(sys.argv[1:])
