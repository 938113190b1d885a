"""The command `timesformer`: its list of commands, unknown ones, exit codes, and `test`."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Outcome
from tests.patience import PATIENCE
from timesformer import __version__
from timesformer.commands import test as test_command
from timesformer.commands.main import COMMANDS, main
from timesformer.runtime.subcommands import suggest_command


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["timesformer", __version__]


@pytest.mark.parametrize(("word", "near"), [("tain", "train"), ("prdict", "predict"), ("xyzzy", "visualize")])
def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str], word: str, near: str) -> None:
    assert main([word]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert near in error


def run_python(*arguments: str, **pipes: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, **pipes)


HEAVY = {"matplotlib", "mlflow", "pandas", "scipy", "sklearn", "streamlit", "sympy", "tensorboard", "timm"}
HEAVY |= {"torch._dynamo", "torchvision", "transformers", "wandb"}


def test_help_imports_no_heavy_package() -> None:
    script = """import sys
from timesformer.commands.main import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as ended:
        print(ended.code, name, *sys.modules, file=sys.stderr)"""
    _, error = run_python("-c", script, stdout=subprocess.DEVNULL).communicate(timeout=PATIENCE)
    heavy = {*HEAVY, "PIL", "av", "numpy", "pydantic", "torch"}
    found = {name: (code, heavy & {*modules}) for code, name, *modules in map(str.split, error.splitlines())}
    assert found == dict.fromkeys(COMMANDS, ("0", set()))


@pytest.mark.slow
def test_predict_imports_heavy_packages_late(tiny_checkpoint: Path, tiny_data: Path) -> None:
    video = tiny_data / "test/walk/test0"
    script = f"""import sys
from timesformer.commands.predict import main
main(["--checkpoint", {str(tiny_checkpoint)!r}, {str(video)!r}])
print(*sys.modules)"""
    output, error = run_python("-c", script, stdout=subprocess.PIPE).communicate(timeout=PATIENCE)
    predicted, modules = output.splitlines() or [error, ""]
    assert predicted.startswith(str(video))
    assert not HEAVY & {*modules.split()}


@pytest.mark.slow
def test_threads_of_commands_wait_without_using_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "TRUE")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    _, error = run_python("-c", "import timesformer.commands.train, torch").communicate(timeout=PATIENCE)
    assert re.search("OMP_WAIT_POLICY *= *'PASSIVE'", error)


def test_a_configuration_that_is_not_found_is_a_user_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["configs", "no", "such"]) == 2
    assert capsys.readouterr().err.startswith("error: no configuration has the words no such")


def test_messages_name_the_command_as_it_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for script, expected in (
        ("/usr/bin/timesformer", "timesformer prepare folder 'my data'"),
        ("tools/run_net.py", "python tools/prepare.py folder 'my data'"),
    ):
        monkeypatch.setattr(sys, "argv", [script, "x"])
        assert suggest_command("prepare", "folder", "my data") == expected


def test_a_closed_pipe_ends_a_command_silently() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = run_python("-m", "timesformer", "configs", stdout=writer)
    os.close(writer)
    _, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (141, "")


@pytest.mark.slow
def test_a_checkpoint_is_tested_with_its_own_configuration(
    tiny_checkpoint: Path, tiny_command: list[str], run_net: Callable[..., Outcome], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run/checkpoints/best.pyth"
    checkpoint.parent.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, checkpoint)
    by_hand = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(checkpoint), "OUTPUT_DIR", str(tmp_path / "b")]
    assert run_net(*tiny_command, *by_hand).code == 0
    assert test_command.main(["--checkpoint", str(tmp_path / "run")]) == 0
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "b"))
    for key in ("top1", "loss", "num_videos", "per_class", "weights"):
        assert found[key] == expected[key]
