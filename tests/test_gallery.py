import base64
import re
import socket
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gallery import embedded, page, winds
from matplotlib.quiver import Quiver

from stforecast import plot


def test_the_page_holds_its_pictures_and_points_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> None:
        raise AssertionError("a picture asked for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    path = plot.save(winds(), tmp_path / "winds.png")
    text = page(["<h2>A & B</h2>", embedded(path, "winds <over> isolines")], "generated series")
    (content,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(content) == path.read_bytes()
    assert "winds &lt;over&gt; isolines" in text
    assert "http" not in text.replace(content, "")  # which has all letters by chance
    assert "from generated series" in text


def test_the_idealised_winds_blow_along_the_isolines() -> None:
    axes = winds().axes[0]
    (arrows,) = (artist for artist in axes.collections if isinstance(artist, Quiver))
    (lines,) = (artist for artist in axes.collections if hasattr(artist, "labelTexts"))
    checked = 0
    for path in lines.get_paths():
        for start, end in pairwise(path.vertices):
            apart = np.hypot(arrows.X - start[0], arrows.Y - start[1])
            nearest = int(apart.argmin())
            step = end - start
            if apart[nearest] < 5e4 and 0 < np.hypot(*step) < 5e5:
                turned = (step[0] * arrows.V[nearest] - step[1] * arrows.U[nearest]) / np.hypot(*step)
                checked += 1
                assert abs(turned) < 0.5 * np.hypot(arrows.U[nearest], arrows.V[nearest])
    assert checked > 5
