"""What the tutorial and the pages of how-to show is run as it stands, on fewer frames and epochs."""

import re
import shutil
from pathlib import Path

import pytest
from pages import run

import stforecast as stf

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [*sorted((DOCS / "howto").glob("*.md")), DOCS / "reference" / "contracts.md"]
SMALLER = {
    "years=2": "years=2, step_hours=24",
    "T18": "T00",
    'lead_times=["12h", "24h"]': 'lead_times=["24h"]',
    "profile(series, at=place)": 'profile(series, at=place, by="weekday")',
    "animation(forecast,": "animation(forecast.isel(lead_time=slice(2)),",
    "lead 12h": "lead 24h",
    'lead_time="12h"': 'lead_time="24h"',
    'write_sample("traffic", "taxi")': 'write_sample("traffic", "taxi", periods=1, days=12)',
    "epochs=2": "epochs=1",
    "epochs=3": "epochs=1",
    "epochs=4": "epochs=1",
    "--epochs 2": "--epochs 1",
}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial has worked in."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shown = run(DOCS / "tutorials" / "first_forecast.md", SMALLER)
    assert dict(shown["forecast"].sizes) == {"init_time": 1, "lead_time": 4, "lat": 10, "lon": 22}
    assert (shown["forecast"]["t2m_lower"] <= shown["forecast"]["t2m_upper"]).all()
    assert set(shown["scores"]["source"].values) > {"forecast", "persistence", "climatology"}
    for picture in ("map.png", "skill.png", "map_again.png"):
        assert (folder / picture).stat().st_size > 10_000
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_goes_on_with_what_the_tutorial_made(
    page: Path, tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tutorial, folder, symlinks=True)
    monkeypatch.chdir(folder)
    run(page, SMALLER)


def test_every_public_name_is_in_the_reference() -> None:
    names = set(re.findall(r"^   ([\w.]+)$", (DOCS / "reference" / "api.md").read_text(), flags=re.MULTILINE))
    named = {*stf.__all__, *stf.plot.__all__, *stf.verification.__all__}
    # Modules have a section each, and these three are described in theirs.
    described = {"baselines", "plot", "verification", "METRICS", "Reference", "Region"}
    assert named - described <= names


def test_pages_point_to_files_that_are_there() -> None:
    for page in DOCS.rglob("*.md"):
        if {"generated", "_build"} & set(page.parts):
            continue
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and "generated" not in target:
                assert (page.parent / target).exists(), f"{page} points to {target}"
