"""The script that makes the demo dataset, as a module."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "demo" / "make.py"


@pytest.fixture(scope="session")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_make", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_make"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
