"""Starting commands of this package in processes of their own, from a source checkout or an installed package."""

import os
import site
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])  # the folder that `timesformer` is imported from


def command_line(*words: str) -> list[str]:
    """`timesformer WORDS...` with this Python; needs `command_environment` if the package is not installed."""
    return [sys.executable, "-m", "timesformer", *words]


def command_environment() -> dict[str, str]:
    """The environment variables of this process, with a PYTHONPATH that has this package."""
    if _ROOT in (*site.getsitepackages(), site.getusersitepackages()):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))}
