from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra `distributed` is not installed")

from on_a_cluster import run


@pytest.mark.slow
def test_scheduled_runs_and_forecasts_on_a_cluster_are_as_they_are_without_one(tmp_path: Path) -> None:
    assert run("apart", tmp_path / "apart") == "made"
