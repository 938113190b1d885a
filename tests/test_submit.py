"""tools/submit.py and slurm_scripts/ without Slurm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow


def submit(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": str(path or os.environ["PATH"])}
    command = [sys.executable, str(ROOT / "tools" / "submit.py"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_local_run_is_followed(tiny_command: list[str], tmp_path: Path) -> None:
    done = submit("--job_dir", str(tmp_path), "--cluster", "local", "--follow", *tiny_command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 2" in done.stdout
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6


def test_debug_runs_in_this_process(tiny_command: list[str], tmp_path: Path) -> None:
    done = submit("--job_dir", str(tmp_path), "--cluster", "debug", *tiny_command, "TRAIN.ENABLE", "False")
    assert done.returncode == 2  # there is no checkpoint
    assert done.stderr.startswith("error: ")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_pass_shellcheck() -> None:
    scripts = [path for folder in ("slurm_scripts", ".ci") for path in sorted((ROOT / folder).iterdir())]
    assert len(scripts) > 1
    checked = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder of Slurm's commands that save the submitted script as `job`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun"):
        text = '#!/bin/sh\nPATH=/bin:/usr/bin\ntest "${1%.sh}" = "$1" || cat "$1" > "$(dirname "$0")/job"\n'
        (folder / name).write_text(f"{text}echo Submitted batch job 7\n")
        (folder / name).chmod(0o755)
    return folder


ALL = """--num_shards 4 --num_gpus 2 --partition p --timeout 90 --constraint c --account a --qos q --name n --mem 64
--cpus 5 --comment hello --mail me@host.example --slurm reservation=friday --signal_delay 60"""
ALL_SUBMITTED = """nodes=4 ntasks-per-node=2 gpus-per-node=2 partition=p time=90 constraint=c account=a qos=q job-name=n
mem=64GB cpus-per-task=5 comment=hello mail-user=me@host.example mail-type=END,FAIL,REQUEUE reservation=friday
signal=USR2@60 open-mode=append"""


def test_options_reach_the_scheduler(tiny_command: list[str], commands: Path, tmp_path: Path) -> None:
    done = submit("--job_dir", str(tmp_path), *ALL.split(), *tiny_command, "TRAIN.BATCH_SIZE", "2", path=commands)
    assert done.returncode == 0, done.stderr
    job = (commands / "job").read_text()
    assert {f"#SBATCH --{option}" for option in ALL_SUBMITTED.split()} <= set(job.splitlines())
    assert "--kill-on-bad-exit=1" in job
    assert submit("--job_dir", str(tmp_path), *tiny_command, path=commands).returncode == 0
    lines = [line for line in (commands / "job").read_text().splitlines() if line.startswith("#SBATCH")]
    names = {line.removeprefix("#SBATCH --").split("=")[0] for line in lines}
    assert not names & {"partition", "constraint", "account", "qos", "mem", "gpus-per-node", "comment", "mail-user"}
    assert "#SBATCH --job-name=tiny_experiment" in lines


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--num_shards", "2", "--cluster", "local"], "--num_shards"),
        (["--slurm", "friday"], "friday"),
        ([], "--cluster local"),
        (["--resume-from", "absent.pyth"], "TRAIN.CHECKPOINT_FILE_PATH"),
    ],
)
def test_errors_before_submission(tiny_command: list[str], tmp_path: Path, options: list[str], named: str) -> None:
    done = submit("--job_dir", str(tmp_path), *options, *tiny_command, path=tmp_path)
    assert (done.returncode, named in done.stderr, "Traceback" in done.stderr) == (2, True, False)
