"""What several test files need: the folder of peers' reference numbers and real clips."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data ($TIMESFORMER_SHARED, else ../shared beside the checkout); skips where absent."""
    folder = Path(os.environ.get("TIMESFORMER_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}: set TIMESFORMER_SHARED to its folder")
    return folder
