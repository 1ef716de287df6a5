"""The folder of the real series, for tests that need them; data/README.md says where they come from."""

import os
from pathlib import Path

import pytest

# What make exports where they are not at hand is empty, not absent.
REAL_DATA = Path(os.environ.get("STFORECAST_DATA") or "/nowhere")
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="STFORECAST_DATA names no folder of real data (see data/README.md)"
)
