"""The teaching notebooks are kept as they should be; `make notebooks` executes them."""

import json
from pathlib import Path

import pytest
from notebook_runs import KERNEL, NOTEBOOKS, stripped

PATHS = sorted((Path(__file__).parent.parent / NOTEBOOKS).glob("*.ipynb"))


def executed(text: str) -> str:
    """A notebook as Jupyter keeps it after it was executed."""
    notebook = json.loads(text)
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {"collapsed": False}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12.1"}
    return json.dumps(notebook)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_counts_and_metadata(path: Path) -> None:
    text = path.read_text()
    assert text == stripped(text), f"run python pipelines/notebook_runs.py --strip {NOTEBOOKS / path.name}"
    notebook = json.loads(text)
    assert notebook["metadata"] == {"kernelspec": KERNEL}
    assert KERNEL["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stripping_undoes_what_executing_adds(path: Path) -> None:
    assert stripped(executed(path.read_text())) == path.read_text()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_a_lesson_in_short_cells(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    first = "".join(cells[0]["source"])
    assert cells[0]["cell_type"] == "markdown"
    assert first.startswith("# ")
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            assert len("".join(cell["source"]).split()) <= 120, cell["id"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert 'os.environ.get("STFORECAST_DATA")' in code
    assert "REAL DATA" in code
    assert "GENERATED DATA" in code


def test_there_are_notebooks_and_the_readme_points_to_them() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert PATHS
    assert "(notebooks)" in readme
    for path in PATHS:
        assert path.stem[:2] == f"{PATHS.index(path) + 1:02}"
