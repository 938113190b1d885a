"""Paths on every command line: `~` is the user's home, also where no shell expands it; and names that begin with -."""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from timesformer.arguments import as_path, as_source, parse_intermixed
from timesformer.preparation import command_line
from timesformer.web import options


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """tool(path, arguments): the script as a module, called with these arguments."""

    def load(path: str, *arguments: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        specification = importlib.util.spec_from_file_location("the_tool", ROOT / path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


def test_the_home_is_put_for_a_tilde_at_the_start_alone(home: Path):
    assert as_path("~/a") == home / "a"
    assert as_source("~/a") == f"{home}/a"
    assert [as_source(text) for text in ("a/~/b", "https://x.org/~b/c", "zoo:x", "")] == [
        *("a/~/b", "https://x.org/~b/c", "zoo:x", "")
    ]


COMMANDS = {
    "tools/predict.py": ["~/v.mp4", "--checkpoint=~/c", "--output=~/o.csv", "--features=~/f.npz", "--cfg=~/c.yaml"],
    "tools/visualize.py": ["~/v.mp4", "--checkpoint=~/c", "--output=~/o.png", "--overlay=~/o.gif", "--cfg=~/c.yaml"],
    "tools/convert_checkpoint.py": ["~/a", "~/b", "--to=pyth"],
    "tools/submit.py": ["--cfg=~/c.yaml", "--job_dir=~/j", "--resume-from=~/r", "--cluster=debug"],
    "tools/reproduce.py": ["~/s.yaml", "--data=~/d", "--output=~/o"],
    "tools/run_net.py": ["--cfg=~/c.yaml"],
}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_path_of_a_tool_is_expanded(tool: Callable[..., ModuleType], home: Path, path: str):
    given = vars(tool(path, *COMMANDS[path]).parse_args())
    words = [str(word) for value in given.values() for word in (value if isinstance(value, list) else [value])]
    assert not [word for word in words if "~" in word]
    assert sum(word.startswith(str(home)) for word in words) == sum("~" in word for word in COMMANDS[path])


def test_every_path_of_the_other_commands_is_expanded(
    tool: Callable[..., ModuleType], home: Path, capsys: pytest.CaptureFixture[str]
):
    for path, *first in (
        ["tools/report.py"],
        ["tools/prepare.py", "hmdb_simp"],
        ["tools/benchmark.py", "models", "--cfg"],
    ):
        assert tool(path, *first, "~/none").main() == 2
        assert f"{home}/none" in capsys.readouterr().err
    parsed = command_line.parse_arguments(["folder", "~/d", "--check", "--output=~/o"])
    assert (parsed.root, parsed.output) == (home / "d", home / "o")
    line = "--checkpoint=~/c --fallback=~/f --cfg=~/c.yaml --fallback-cfg=~/f.yaml --examples=~/e"
    found = options.parse(line.split())
    assert (found.checkpoint, found.fallback, found.cfg, found.fallback_cfg) == tuple(
        f"{home}/{name}" for name in ("c", "f", "c.yaml", "f.yaml")
    )
    assert found.examples == home / "e"


@pytest.mark.parametrize("before", [[], ["--quiet"], ["a.mp4"], ["a.mp4", "--quiet", "b.mp4"]])
@pytest.mark.parametrize("after", [["-x.mp4"], ["--quiet"], ["-x.mp4", "--", "-y.mp4"], []])
def test_words_behind_two_dashes_are_no_options(before: list[str], after: list[str]):
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--quiet", action="store_true")
    found = parse_intermixed(parser, "videos", [*before, "--", *after])
    assert found.videos == [word for word in before if word != "--quiet"] + after
    assert found.quiet == ("--quiet" in before)
