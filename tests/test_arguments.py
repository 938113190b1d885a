"""Arguments of all command lines: `~` is expanded, and words after `--` may begin with a dash."""

import argparse
from pathlib import Path

import pytest

from tests.conftest import load_command
from timesformer.arguments import as_path, as_source, parse_intermixed
from timesformer.web import options


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_at_the_start_is_the_home(home: Path):
    assert as_path("~/a") == home / "a"
    unchanged = ["a/~/b", "https://x.org/~b/c", "zoo:x", ""]
    assert [as_source(text) for text in unchanged] == unchanged


COMMANDS = {
    "predict": ["~/v.mp4", "--checkpoint=~/c", "--output=~/o.csv", "--features=~/f.npz", "--cfg=~/c.yaml"],
    "visualize": ["~/v.mp4", "--checkpoint=~/c", "--output=~/o.png", "--overlay=~/o.gif", "--cfg=~/c.yaml"],
    "convert": ["~/a", "~/b", "--to=pyth"],
    "export": ["--checkpoint=~/c", "--to=onnx", "--output=~/m.onnx", "--clips=~/v", "--cfg=~/c.yaml"],
    "submit": ["--cfg=~/c.yaml", "--job_dir=~/j", "--resume-from=~/r", "--cluster=debug"],
    "reproduce": ["~/s.yaml", "--data=~/d", "--output=~/o"],
    "train": ["--cfg=~/c.yaml"],
    "app": ["--checkpoint=~/c", "--fallback=~/f", "--cfg=~/c.yaml", "--fallback-cfg=~/f.yaml", "--examples=~/e"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_tools_expand_every_path(name: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", [name, *COMMANDS[name]])
    args = options.parse(COMMANDS[name]) if name == "app" else load_command(name).parse_args()
    words = [str(word) for value in vars(args).values() for word in (value if isinstance(value, list) else [value])]
    assert not [word for word in words if "~" in word]
    assert sum(word.startswith(str(home)) for word in words) == sum("~" in word for word in COMMANDS[name])


@pytest.mark.parametrize("before", [[], ["a.mp4", "--quiet", "b.mp4"]])
@pytest.mark.parametrize("after", [["-x.mp4"], ["--quiet"], ["-x.mp4", "--", "-y.mp4"], []])
def test_words_after_two_dashes_are_no_options(before: list[str], after: list[str]):
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--quiet", action="store_true")
    args = parse_intermixed(parser, "videos", [*before, "--", *after])
    assert args.videos == [word for word in before if word != "--quiet"] + after
    assert args.quiet == ("--quiet" in before)


OPTIONS_OF_NUMBERS = {  # a command line without the number
    "export": "--checkpoint c --to onnx --output m.onnx --max-drop",
    "submit": "--cfg c.yaml --mem",
    "prepare": "shards folder root --max-size",
    "benchmark": "gpu --minutes",
}


@pytest.mark.parametrize("number", ["nan", "inf", "x"])
@pytest.mark.parametrize("name", OPTIONS_OF_NUMBERS)
def test_options_of_numbers_are_finite(name: str, number: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        load_command(name).make_parser().parse_args([*OPTIONS_OF_NUMBERS[name].split(), number])
    assert exit.value.code == 2
    assert number in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "meant"),
    [("predict", ["--treshold", "0.3"], "--threshold"), ("train", ["--cgf", "x.yaml"], "--cfg")],
)
def test_a_misspelled_option_is_one_line_with_a_similar_one(
    name: str, arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit:
        load_command(name).parse_args(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2
    assert arguments[0] in line
    assert meant in line.split(arguments[0])[1]
