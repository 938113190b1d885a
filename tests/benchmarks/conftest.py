"""Running tools/benchmark.py without starting a process, and clips of a moment to run it on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.benchmark import command_line
from tools.benchmark.made_clips import Recipe, make_clip

TINY = (
    Recipe("H.264", "gop12.mp4", 60, 96, 72, "libx264", {"g": "12"}),
    Recipe("MPEG-4", "short.avi", 20, 96, 72, "mpeg4"),
    Recipe("JPEG", "frames", 20, 96, 72, "jpeg"),
)


@pytest.fixture
def run_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], str]]:
    """run_benchmark(arguments): exit code, lines on stdout, and stderr of `python tools/benchmark.py arguments`."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
        code = command_line.main()
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


@pytest.fixture(scope="session")
def tiny_recipes() -> tuple[Recipe, ...]:
    """Clips that are made and read in a moment: titles H.264, MPEG-4 and JPEG."""
    return TINY


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of each kind, by the title of its recipe; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny_clips")
    return {recipe.title: make_clip(folder, recipe) for recipe in TINY}
