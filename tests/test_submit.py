"""tools/submit.py and slurm_scripts/ where there is no Slurm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


def submit(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = str(path) if path else environment["PATH"]
    command = [sys.executable, str(ROOT / "tools" / "submit.py"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_run_of_this_machine_is_followed_to_its_end(tiny_command: list[str], tmp_path: Path) -> None:
    done = submit("--job_dir", str(tmp_path), "--cluster", "local", "--follow", *tiny_command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"results in {tmp_path}, logs of its processes in {tmp_path}/" in done.stdout
    assert "epoch 2: validation loss" in done.stdout
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6


def test_a_failure_in_this_very_process_is_its_exit_code(tiny_command: list[str], tmp_path: Path) -> None:
    options = ["TRAIN.ENABLE", "False"]
    done = submit("--job_dir", str(tmp_path), "--cluster", "debug", *tiny_command, *options)
    assert done.returncode == 2
    assert "error: there is no checkpoint to test" in done.stderr


STUB = """#!/bin/sh
PATH=/bin:/usr/bin
test "${1%.sh}" = "$1" || cat "$1" > "$(dirname "$0")/job"
echo Submitted batch job 7
"""


@pytest.fixture
def no_cluster(tmp_path: Path) -> Path:
    """A folder of commands that keep what is submitted, as the file `job`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    return folder


def test_every_option_reaches_the_scheduler(tiny_command: list[str], no_cluster: Path, tmp_path: Path) -> None:
    options = "--num_shards 4 --num_gpus 2 --partition p --timeout 90 --constraint c --account a --qos q --name n"
    options += " --mem 64 --cpus 5 --comment hello --mail me@host.example --slurm reservation=friday --signal_delay 60"
    done = submit("--job_dir", str(tmp_path), *options.split(), *tiny_command, "TRAIN.BATCH_SIZE", "2", path=no_cluster)
    assert done.returncode == 0, done.stderr
    assert "job 7: " in done.stdout
    expected = "nodes=4 ntasks-per-node=2 gpus-per-node=2 partition=p time=90 constraint=c account=a qos=q job-name=n"
    expected += " mem=64GB cpus-per-task=5 comment=hello mail-user=me@host.example mail-type=END,FAIL,REQUEUE"
    expected += " reservation=friday signal=USR2@60 open-mode=append"
    job = (no_cluster / "job").read_text()
    assert {f"#SBATCH --{option}" for option in expected.split()} <= set(job.splitlines())
    assert "--kill-on-bad-exit=1" in job


def test_what_is_not_asked_for_is_left_to_the_cluster(
    tiny_command: list[str], no_cluster: Path, tmp_path: Path
) -> None:
    assert submit("--job_dir", str(tmp_path), *tiny_command, path=no_cluster).returncode == 0
    lines = [line for line in (no_cluster / "job").read_text().splitlines() if line.startswith("#SBATCH")]
    names = {line.removeprefix("#SBATCH --").split("=")[0] for line in lines}
    assert names == {
        "cpus-per-task",
        "error",
        "job-name",
        "nodes",
        "ntasks-per-node",
        "open-mode",
        "output",
        "signal",
        "time",
        "wckey",
    }
    assert "#SBATCH --job-name=tiny_experiment" in lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num_shards", "2", "--cluster", "local"], "--num_shards is 2, but --cluster local is this machine alone"),
        (["--slurm", "friday"], "--slurm friday, expected OPTION=VALUE"),
        ([], "Give --cluster local to run on this machine without Slurm"),
        (["--resume-from", "absent.pyth"], "TRAIN.CHECKPOINT_FILE_PATH is 'absent.pyth'"),
    ],
)
def test_what_cannot_be_submitted_is_told_at_once(
    tiny_command: list[str], tmp_path: Path, options: list[str], expected: str
) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    answer = submit("--job_dir", str(tmp_path), *options, *tiny_command, path=path)
    assert answer.returncode == 2
    assert expected in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "slurm_scripts").iterdir()))
def test_a_script_has_no_fault_that_can_be_seen_without_running_it(script: str) -> None:
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    checked = subprocess.run([*checker, str(ROOT / "slurm_scripts" / script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
