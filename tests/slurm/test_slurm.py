"""Runs on a real Slurm cluster of two nodes, which is this machine."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 20
DEMO = "configs/Demo/TimeSformer_divST_8x2_48.yaml"


def load_cluster() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slurm_cluster", Path(__file__).with_name("cluster.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLUSTER = load_cluster()
pytestmark = pytest.mark.skipif(bool(CLUSTER.why_not()), reason=CLUSTER.why_not())


class Slurm:
    """Commands in the environment of the cluster."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}

    def __call__(self, *command: str, **more: str) -> str:
        """What the command says on stdout."""
        done = subprocess.run(
            command,
            env={**self.environment, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def sbatch(self, *arguments: str, **more: str) -> str:
        """Number of the job."""
        return self("sbatch", "--parsable", *arguments, **more)

    def signal(self, name: str, job: str) -> None:
        """Sends a signal until the job heeds it: Slurm drops one that comes while it has not set up all of a step."""
        sent = 0.0

        def has_heeded() -> bool:
            nonlocal sent
            if self.state(job) != "RUNNING":
                return True
            if time.monotonic() > sent + 5.0:
                sent = time.monotonic()
                command = ["scancel", f"--signal={name}", job]
                subprocess.run(command, env=self.environment, check=False, timeout=PATIENCE)
            return False

        wait_until(has_heeded)

    def state(self, job: str) -> str:
        """Of a job in the queue."""
        return self("squeue", "-h", "-j", job, "-o", "%T")

    def start_again(self, job: str) -> None:
        """Once the job is back in the queue, spares it the two minutes that Slurm lets it wait there.

        Slurm refuses credentials of the second in which it ended the job, hence the 2 that remain.
        """
        wait_until(lambda: self.state(job) == "PENDING")
        self("scontrol", "update", f"JobId={job}", "StartTime=now+2")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with CLUSTER.cluster() as variables:
        yield Slurm(variables)


def lines_of(output: Path, kind: str) -> list[dict]:
    file = output / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_over_two_nodes_that_is_put_back_into_the_queue_ends_as_one_in_one_process_does(
    slurm: Slurm, run_net: Callable, tmp_path: Path
) -> None:
    clips = tmp_path / "demo"
    slurm(sys.executable, "datasets/demo/make.py", str(clips), "--clips-per-class", "3", "1", "1")
    options = [
        "DATA.PATH_TO_DATA_DIR",
        str(clips),
        "TRAIN.BATCH_SIZE",
        "4",
        "GLOBAL_BATCH_SIZE",
        "8",
        "LOG_PERIOD",
        "1",
    ]
    options += ["SOLVER.MAX_EPOCH", str(EPOCHS), "TRAIN.CHECKPOINT_PERIOD", "1", "TENSORBOARD.ENABLE", "False"]
    options += ["TEST.REPORT", "False"]
    by_script, by_submit, alone = tmp_path / "script", tmp_path / "submit", tmp_path / "alone"

    script_log = tmp_path / "script.log"
    of_the_job = ["--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={script_log}"]
    script = ["slurm_scripts/run_multi_node_job.sh", *options, "OUTPUT_DIR", str(by_script)]
    first = slurm.sbatch(*of_the_job, *script, CFG=DEMO)
    submit = [sys.executable, "tools/submit.py", "--cfg", DEMO, "--job_dir", str(by_submit), "--num_shards", "2"]
    submit += ["--cpus", "1", "--timeout", "60", "--follow", *options]
    with (tmp_path / "follow.log").open("w") as log:
        following = subprocess.Popen(submit, env=slurm.environment, cwd=ROOT, stdout=log, stderr=log)
    second = str(int(first) + 1)

    preemptions = {
        by_script: (first, "scontrol", "requeue", first),
        by_submit: (second, "scancel", "--signal=USR2", second),  # as Slurm announces it to submitit
    }
    to_come = dict(preemptions)
    while to_come:
        wait_until(lambda: any(len(lines_of(output, "val_epoch")) >= 2 for output in to_come))
        for output, (_, *command) in list(to_come.items()):
            if len(lines_of(output, "val_epoch")) >= 2:
                slurm(*command)
                del to_come[output]
    for output, (job, *_) in preemptions.items():
        slurm.start_again(job)
        assert len(lines_of(output, "val_epoch")) < EPOCHS

    assert run_net("--cfg", DEMO, *options, "TRAIN.BATCH_SIZE", "8", "OUTPUT_DIR", str(alone)).code == 0
    assert following.wait(PATIENCE) == 0
    wait_until(lambda: slurm("squeue", "-h") == "")

    assert "Calling checkpoint method" in (tmp_path / "follow.log").read_text()
    assert "0: going on from" in script_log.read_text()
    for output in (by_script, by_submit):
        log = (output / "run.log").read_text()
        assert "a step: 8 clips in 1 batch(es) of 4 on 2 machine(s) with 1 process(es)" in log
        assert log.count("going on from") == 1
        for kind in ("train_step", "val_epoch"):
            there, here = lines_of(alone, kind), lines_of(output, kind)
            assert [line["epoch"] for line in here] == [line["epoch"] for line in there]
            assert [line["loss"] for line in here] == pytest.approx([line["loss"] for line in there], abs=1e-4)
        there, here = (json.loads((folder / "results.json").read_text()) for folder in (alone, output))
        assert here["top1"] == there["top1"]
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-4)
    assert len(lines_of(by_script, "train_step")) == 3 * EPOCHS


@pytest.mark.parametrize(
    ("script", "code"), [("run_single_node_job.sh", 75), ("run_multi_node_job.sh", 75), ("run_multi_node_job.sh", 143)]
)
def test_a_job_that_was_stopped_puts_itself_back_into_the_queue_and_one_that_fails_says_so(
    slurm: Slurm, tmp_path: Path, script: str, code: int
) -> None:
    started, stub = tmp_path / "started", tmp_path / "python"
    stub.write_text(f'#!/bin/sh\ntrap "exit {code}" USR1 TERM\necho "$@" > {started}\nsleep 100 & wait $!\n')
    stub.chmod(0o755)
    of_the_job = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--output=/dev/null"]
    job = slurm.sbatch(*of_the_job, f"slurm_scripts/{script}", "RNG_SEED", "3", PYTHON=str(stub), CFG="a.yaml")
    wait_until(started.exists)
    # As Slurm does before the time is over, and as it begins to preempt; with the state of a job that is to go on.
    slurm.signal("USR1" if code == 75 else "TERM", job)
    stub.write_text("#!/bin/sh\nexit 7\n")
    slurm.start_again(job)
    wait_until(lambda: "JobState=FAILED" in slurm("scontrol", "show", "job", job))
    assert "ExitCode=7:0" in slurm("scontrol", "show", "job", job)
    assert started.read_text().startswith("-u tools/run_net.py --cfg a.yaml")
    assert started.read_text().endswith(" RNG_SEED 3\n")


def test_a_job_that_was_cancelled_does_not_come_back(slurm: Slurm, tmp_path: Path) -> None:
    started, stub = tmp_path / "started", tmp_path / "python"
    stub.write_text(f'#!/bin/sh\ntrap "exit 143" TERM\necho > {started}\nsleep 100 & wait $!\n')
    stub.chmod(0o755)
    of_the_job = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--output=/dev/null"]
    job = slurm.sbatch(*of_the_job, "slurm_scripts/run_multi_node_job.sh", PYTHON=str(stub))
    wait_until(started.exists)
    slurm("scancel", job)
    wait_until(lambda: slurm("squeue", "-h", "-j", job) == "")
    assert "JobState=CANCELLED" in slurm("scontrol", "show", "job", job)


def test_a_study_whose_command_was_killed_takes_the_results_of_its_jobs_when_it_is_started_again(
    slurm: Slurm, tiny_command: list[str], tmp_path: Path
) -> None:
    demo = {"data": {"seed": 3, "clips": [4, 1, 1], "classes": ["left", "right", "up"]}}
    rows = [{"name": "base"}, {"name": "slow", "set": {"SOLVER.BASE_LR": 0.001}}]
    study = {"title": "Tiny", "source": "nobody", "config": tiny_command[1], "prepare": "nothing", "demo": demo}
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
    assert "| base | - | - |" in (tmp_path / "out/tiny_demo/tables.md").read_text()
    assert int(slurm.sbatch("--wrap=true", "--output=/dev/null")) == last + len(rows) + 1
