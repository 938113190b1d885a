"""Starting commands of this package in processes of their own, from a source checkout or an installed package."""

import os
import shlex
import site
import sys
from pathlib import Path

_SCRIPTS = {"train": "run_net", "test": "run_net", "convert": "convert_checkpoint"}  # with other names in tools/
_ROOT = str(Path(__file__).resolve().parents[2])  # the folder that `timesformer` is imported from


def command_line(*words: str) -> list[str]:
    """`timesformer WORDS...` with this Python; needs `command_environment` if the package is not installed."""
    return [sys.executable, "-m", "timesformer", *words]


def suggest_command(command: str, *arguments: str) -> str:
    """How a user runs `timesformer COMMAND ARGUMENTS`, for messages: as tools/*.py if the user has run one of these."""
    words, script = ["timesformer", command], Path(sys.argv[0])
    if script.parent.name == "tools" and script.suffix == ".py":
        words = ["python", str(script.with_name(f"{_SCRIPTS.get(command, command)}.py"))]
    return shlex.join([*words, *arguments])


def command_environment() -> dict[str, str]:
    """The environment variables of this process, with a PYTHONPATH that has this package."""
    if _ROOT in (*site.getsitepackages(), site.getusersitepackages()):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))}
