"""Finished runs for tests that change them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_once(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], Path]:
    """run_once(name, run): a copy of the folder that `run(folder)` writes, the first time with this name."""

    def copy(name: str, run: Callable) -> Path:
        folder = tmp_path_factory.getbasetemp() / name
        assert folder.exists() or run(folder).code == 0
        return Path(shutil.copytree(folder, tmp_path / "out"))

    return copy
