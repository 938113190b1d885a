"""Runs on a real Slurm cluster of two nodes on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from tests.slurm.cluster import cluster, why_not
from tests.studies.almost_finished import almost_finished_sweep

EPOCHS = 20
DEMO = "configs/Demo/TimeSformer_divST_8x2_48.yaml"
ONE_TASK = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--output=/dev/null")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]


class Slurm:
    """Runs commands in the environment of the cluster."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}

    def __call__(self, *command: str, **variables: str) -> str:
        """Output of a command."""
        environment, options = {**self.environment, **variables}, {"capture_output": True, "text": True, "cwd": ROOT}
        done = subprocess.run(command, env=environment, timeout=PATIENCE, check=False, **options)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def sbatch(self, *arguments: str, **variables: str) -> str:
        """Number of the new job."""
        return self("sbatch", "--parsable", *arguments, **variables)

    def state(self, job: str) -> str:
        return self("squeue", "-h", "-j", job, "-o", "%T")

    def show(self, job: str) -> str:
        return self("scontrol", "show", "job", job)

    def wait(self, job: str, condition: Callable[[], bool]) -> None:
        wait_until(condition, lambda: f"{self.show(job)}\n{self('sinfo', '-lN')}")

    def attempt(self, *command: str) -> bool:
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    def signal(self, name: str, job: str) -> None:
        """Sends a signal until the job ends: Slurm drops signals while it sets up a step."""
        sent = 0.0

        def has_stopped() -> bool:
            nonlocal sent
            if self.state(job) != "RUNNING":
                return True
            if time.monotonic() > sent + 5.0:
                sent = time.monotonic()
                self.attempt("scancel", f"--signal={name}", job)
            return False

        self.wait(job, has_stopped)

    def restart(self, job: str) -> None:
        """Restarts a requeued job without the two minutes of waiting; a busy Slurm refuses a time that has passed."""
        update = "scontrol", "update", f"JobId={job}", "StartTime=now+2"

        def has_restarted() -> bool:
            return self.state(job) == "RUNNING" and "Restarts=0" not in self.show(job)

        self.wait(job, lambda: has_restarted() or (self.state(job) == "PENDING" and self.attempt(*update)))


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with cluster() as variables:
        yield Slurm(variables)


def metrics(output: Path, kind: str) -> list[dict]:
    file = output / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_requeued_runs_over_two_nodes_equal_a_single_process(slurm: Slurm, run_net: Callable, tmp_path: Path) -> None:
    clips = tmp_path / "demo"
    slurm(sys.executable, "datasets/demo/make.py", str(clips), "--clips-per-class", "3", "1", "1")
    options = f"DATA.PATH_TO_DATA_DIR {clips} TRAIN.BATCH_SIZE 4 GLOBAL_BATCH_SIZE 8 LOG_PERIOD 1 TEST.REPORT False "
    options += f"SOLVER.MAX_EPOCH {EPOCHS} TRAIN.CHECKPOINT_PERIOD 1 TENSORBOARD.ENABLE False"
    script, submit, single = tmp_path / "script", tmp_path / "submit", tmp_path / "single"
    logs = tmp_path / "script.log", tmp_path / "submit.log"

    command = ["slurm_scripts/run_multi_node_job.sh", *options.split(), "OUTPUT_DIR", str(script)]
    job_options = ["--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={logs[0]}"]
    first = slurm.sbatch(*job_options, *command, CFG=DEMO)
    command = f"tools/submit.py --cfg {DEMO} --job_dir {submit} --num_shards 2 --cpus 1 --timeout 60 --follow {options}"
    with logs[1].open("w") as log:
        following = subprocess.Popen(
            [sys.executable, *command.split()], env=slurm.environment, cwd=ROOT, stdout=log, stderr=log
        )
    second = str(int(first) + 1)

    def has_validated(output: Path) -> bool:
        assert "Traceback" not in "".join(log.read_text() for log in logs if log.exists()), described()
        return len(metrics(output, "val_epoch")) >= 2

    def described() -> str:
        return "\n".join(log.read_text()[-3000:] for log in logs if log.exists())

    # The second command is how Slurm announces preemption to submitit.
    preempt = {script: ("scontrol", "requeue", first), submit: ("scancel", "--signal=USR2", second)}
    for output, command in preempt.items():
        wait_until(lambda output=output: has_validated(output), described)
        slurm(*command)
    for output, (*_, job) in preempt.items():
        slurm.restart(job)
        assert len(metrics(output, "val_epoch")) < EPOCHS
    assert run_net("--cfg", DEMO, *options.split(), "TRAIN.BATCH_SIZE", "8", "OUTPUT_DIR", str(single)).code == 0
    assert following.wait(PATIENCE) == 0, described()
    wait_until(lambda: slurm("squeue", "-h") == "", described)

    for output in preempt:
        assert "resuming from" in (output / "run.log").read_text()
        for kind in ("train_step", "val_epoch"):
            expected, found = metrics(single, kind), metrics(output, kind)
            assert [line["epoch"] for line in found] == [line["epoch"] for line in expected]
            assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
        expected, found = (json.loads((folder / "results.json").read_text()) for folder in (single, output))
        assert found["top1"] == expected["top1"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)


def stub(folder: Path, code: int) -> Path:
    """A Python that notes its arguments in `started`, and ends with a code at SIGUSR1 and SIGTERM."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ntrap "exit {code}" USR1 TERM\necho "$@" > {folder}/started\nsleep 1000 & wait $!\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "code"), [("run_single_node_job.sh", 75), ("run_multi_node_job.sh", 75), ("run_multi_node_job.sh", 143)]
)
def test_a_script_requeues_a_stopped_job_but_not_a_failed_one(
    slurm: Slurm, tmp_path: Path, script: str, code: int
) -> None:
    python = stub(tmp_path, code)
    job = slurm.sbatch(*ONE_TASK, f"slurm_scripts/{script}", "RNG_SEED", "3", PYTHON=str(python), CFG="a.yaml")
    slurm.wait(job, (tmp_path / "started").exists)
    slurm.signal("USR1" if code == 75 else "TERM", job)  # as before the time limit, and at preemption
    python.write_text("#!/bin/sh\nexit 7\n")
    slurm.restart(job)
    slurm.wait(job, lambda: "JobState=FAILED" in slurm.show(job))
    assert "ExitCode=7:0" in slurm.show(job)
    arguments = (tmp_path / "started").read_text()
    assert arguments.startswith("-u tools/run_net.py --cfg a.yaml")
    assert arguments.endswith(" RNG_SEED 3\n")


def test_a_cancelled_job_is_not_requeued(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch(*ONE_TASK, "slurm_scripts/run_multi_node_job.sh", PYTHON=str(stub(tmp_path, 143)))
    slurm.wait(job, (tmp_path / "started").exists)
    slurm("scancel", job)
    slurm.wait(job, lambda: slurm.state(job) == "")
    assert "JobState=CANCELLED" in slurm.show(job)


def test_a_killed_study_uses_the_results_of_its_jobs(slurm: Slurm, tiny_command: list[str], tmp_path: Path) -> None:
    demo = {"data": {"seed": 3, "clips": [4, 1, 1], "classes": ["left", "right", "up"]}}
    rows = [{"name": "base"}, {"name": "slow", "set": {"SOLVER.BASE_LR": 0.001}}]
    study = {"title": "Tiny", "source": "none", "config": tiny_command[1], "prepare": "nothing", "demo": demo}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**study, "tables": [{"title": "rates", "rows": rows}]}))
    command = [sys.executable, "tools/reproduce.py", str(tmp_path / "tiny.yaml"), "--demo", "--launcher", "slurm"]
    command += ["--data", str(tmp_path / "clips"), "--output", str(tmp_path / "out"), "--submit", "--cpus 1"]
    last = int(slurm.sbatch("--wrap=true", "--output=/dev/null"))

    first = subprocess.Popen(command, env=slurm.environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: slurm("squeue", "-h", "-o", "%j").count("cell-") == len(rows))
    first.kill()
    first.wait()
    slurm(*command)
    assert len(list(tmp_path.glob("out/cells/*/seed_1/results.json"))) == len(rows)
    assert int(slurm.sbatch("--wrap=true", "--output=/dev/null")) == last + len(rows) + 1


def test_killed_repeats_use_the_results_of_their_jobs(slurm: Slurm, tiny_command: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "tools/run_net.py",
        "--repeats",
        "folds=2",
        "--launcher",
        "slurm",
        "--submit",
        "--cpus 1",
    ]
    command += [*tiny_command, "OUTPUT_DIR", str(tmp_path / "out")]
    last = int(slurm.sbatch("--wrap=true", "--output=/dev/null"))

    first = subprocess.Popen(command, env=slurm.environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: slurm("squeue", "-h", "-o", "%j").count("cell-") == 2)
    first.kill()
    first.wait()
    slurm(*command)
    runs = json.loads((tmp_path / "out/repeats.json").read_text())["runs"]
    assert [(run["fold"], run["num_videos"]) for run in runs] == [(1, 12), (2, 12)]
    assert int(slurm.sbatch("--wrap=true", "--output=/dev/null")) == last + 3


def test_a_pruned_job_is_cancelled_and_its_run_saved(slurm: Slurm, tmp_path: Path) -> None:
    command, _, bad = almost_finished_sweep(tmp_path)
    printed = slurm(sys.executable, "tools/reproduce.py", *command, "--launcher", "slurm", "--submit=--cpus 1")
    assert "pruned after epoch 1: sweep, BASE_LR 0.6, seed 1" in printed
    assert not slurm("squeue", "-h", "-o", "%j")
    assert list(bad.folder.glob("checkpoints/checkpoint_epoch_*.pyth"))
    assert not bad.results()
