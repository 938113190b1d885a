"""A Slurm cluster of two nodes on this machine."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.patience import wait_until
from tests.processes import held_port

HOSTS = Path("/etc/hosts")
COMMAND_TIMEOUT = 120.0  # seconds; without a controller, commands wait for it

# Nothing waits longer than necessary: the defaults are those of a cluster with thousands of jobs. The port of a run
# follows from the number of its job, so that two clusters on a machine should not have the same numbers.
CONFIGURATION = """
ClusterName=test
FirstJobId={port}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=30
MessageTimeout=60
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=2 State=UNKNOWN
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here, "" if it can."""
    if missing := [tool for tool in ("slurmctld", "slurmd", "sbatch") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client"
    return "" if os.geteuid() == 0 and os.access(HOSTS, os.W_OK) else f"Slurm and names of nodes in {HOSTS} need root"


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts the controller and node1 and node2; yields the environment variables of Slurm's commands."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        logs = stack.enter_context((folder / "daemons.log").open("wb"))
        stack.enter_context(_host_names())
        ports = {name: stack.enter_context(held_port()) for name in ("port", "first", "second")}
        host, configuration = socket.gethostname().split(".")[0], folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(host=host, folder=folder, **ports))
        environment = {**os.environ, "SLURM_CONF": str(configuration)}
        output = {"env": environment, "stdout": logs, "stderr": logs}
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], **output))
        for number in (1, 2):
            stack.enter_context(_daemon(["slurmd", "-D", "-N", f"node{number}"], **output))
        stack.callback(_cancel_all, environment)  # while the daemons are there

        def is_up() -> bool:
            return _output(["sinfo", "-h", "-t", "idle", "-o", "%D"], environment) == "2"

        wait_until(is_up, lambda: (folder / "daemons.log").read_text()[-3000:])
        yield {"SLURM_CONF": str(configuration)}


@contextmanager
def _daemon(command: list[str], **options: object) -> Iterator[None]:
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _host_names() -> Iterator[None]:
    """Adds the names of the nodes; the file is never empty, as other tests may look up a name."""
    line = "\n127.0.0.1 node1 node2 # nodes of a test\n"
    with HOSTS.open("a") as file:
        file.write(line)
    try:
        yield
    finally:
        with HOSTS.open("r+") as file:
            rest = file.read().replace(line, "")
            file.seek(0)
            file.write(rest)
            file.truncate()


def _cancel_all(environment: dict[str, str]) -> None:
    if jobs := _output(["squeue", "-h", "-o", "%A"], environment).split():
        _output(["scancel", *jobs], environment)
        wait_until(lambda: not _output(["squeue", "-h", "-o", "%A"], environment))


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
    )
    return done.stdout.strip()
