"""The house holds: imports point down, and importing the package has no effect."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import stforecast

PACKAGE = Path(stforecast.__file__).parent

# From the bottom up; a module may import from its own storey's modules listed before it, and from any lower storey.
STOREYS = (
    {"allocation", "configuration", "errors", "files", "netcdf", "precision", "units"},
    {"local_time", "time_axis", "time_features"},
    {"grid"},
    {"split", "normalization", "channels", "limits"},
    {"checkpoints", "windows", "models", "sources", "store", "forecasts", "baselines"},
    {"networks", "alignment", "guards", "intervals"},
    {"training"},
    {"presets", "verification", "plot", "exploration", "inspection", "harmonisation", "interchange"},
    {"planning"},
    {"forecaster"},
    {"fitting", "pretrained", "prediction"},
    {"operations"},
    {"cli"},
    {"__main__"},
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The module or subpackage that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of what a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def storey(name: str) -> int:
    return next(number for number, names in enumerate(STOREYS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "stforecast" and len(parts) > 1 and own != "cli" and parts[1] != own:
            assert storey(parts[1]) <= storey(own), f"{own} imports {name}, which stands above it"


def test_rooms_of_one_storey_make_no_circle() -> None:
    edges = {room(path): set() for path in modules()}
    for path in modules():
        edges[room(path)] |= {
            name.split(".")[1] for name in imported(path) if name.startswith("stforecast.") and room(path) != "cli"
        } & (set(edges) - {room(path)})
    settled: set[str] = set()
    while len(settled) < len(edges):
        ready = {name for name, below in edges.items() if name not in settled and below <= settled}
        assert ready, f"these import each other: {sorted(set(edges) - settled)}"
        settled |= ready


def test_every_room_has_its_storey() -> None:
    assert all(lower.isdisjoint(upper) for lower, upper in pairwise(STOREYS))
    for path in modules():
        storey(room(path))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_knows_both_dask_and_torch(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(path)}
    assert not {"dask", "torch"} <= libraries


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_ever_unpickled_or_evaluated(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "dill", "joblib", "cloudpickle"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"eval", "exec", "yaml.load"}, ast.unparse(node)
            options = {f"{option.arg}={ast.unparse(option.value)}" for option in node.keywords}
            assert ast.unparse(node.func) != "torch.load" or "weights_only=True" in options, ast.unparse(node)
            assert not options & {"allow_pickle=True", "weights_only=False", "shell=True"}, ast.unparse(node)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_pictures() -> None:
    heavy = {"torch", "matplotlib", "cartopy", "lightning", "dask"}
    assert python(f"import sys, stforecast; print({heavy} & set(sys.modules))") == "set()"


def test_a_run_that_finds_its_work_done_loads_neither_torch_nor_pictures() -> None:
    heavy = {"torch", "matplotlib", "cartopy", "lightning", "scores"}
    modules = "stforecast.cli, stforecast.operations.running, stforecast.operations.status"
    assert python(f"import sys, {modules}; print({heavy} & set(sys.modules))") == "set()"


def test_importing_the_package_changes_no_logger_filter_or_option() -> None:
    state = (
        "import logging, warnings, os, xarray, numpy\n"
        "def state(): return (list(warnings.filters), sorted(logging.root.manager.loggerDict), logging.root.level, "
        "list(logging.root.handlers), dict(os.environ), numpy.get_printoptions(), dict(xarray.get_options()))\n"
    )
    assert python(state + "before = state()\nimport stforecast\nprint(before == state())") == "True"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(stforecast.__all__) == set(stforecast._HOMES) == set(dir(stforecast))
    for name in stforecast.__all__:
        assert getattr(stforecast, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'prepair'"):
        stforecast.prepair  # noqa: B018


def test_every_kind_of_error_says_what_is_wrong() -> None:
    # The documentation makes its list of them.
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    (kinds,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ErrorKind")
    for node, after in pairwise(kinds.body):
        if isinstance(node, ast.Assign):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            assert said.endswith("."), f"{ast.unparse(node)} has no sentence below it"
