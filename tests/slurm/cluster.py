"""A Slurm cluster of two nodes on this machine."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.patience import wait_until

HOSTS = Path("/etc/hosts")
MARK = "# nodes of a test"
COMMAND_TIMEOUT = 120.0  # seconds; without a controller, commands wait for it

# Nothing waits longer than necessary: the defaults are those of a cluster with thousands of jobs.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here, "" if it can."""
    missing = [tool for tool in ("slurmctld", "slurmd", "sbatch", "munged", "mungekey") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 and os.access(HOSTS, os.W_OK) else f"Slurm and names of nodes in {HOSTS} need root"


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts the controller and node1 and node2; yields the environment variables of Slurm's commands."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        logs = stack.enter_context((folder / "daemons.log").open("wb"))
        stack.enter_context(_host_names())
        _start_munge(stack, folder, logs)
        port, host = _free_ports(3), socket.gethostname().split(".")[0]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(host=host, folder=folder, port=port, first=port + 1, last=port + 2)
        )
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


def _start_munge(stack: ExitStack, folder: Path, logs: object) -> None:
    munge, owner = folder / "munge", pwd.getpwnam("munge")
    munge.mkdir(mode=0o755)
    os.chown(munge, owner.pw_uid, owner.pw_gid)
    as_munge = {"user": "munge", "group": "munge", "stdout": logs, "stderr": logs}
    subprocess.run(["mungekey", "--create", f"--keyfile={munge}/key"], check=True, **as_munge)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={munge / name}" for option, name in files.items()]
    stack.enter_context(_daemon(["munged", "--foreground", *options], **as_munge))
    wait_until((munge / "socket").exists, lambda: (folder / "daemons.log").read_text())


@contextmanager
def _daemon(command: list[str], **options: object) -> Iterator[None]:
    command[0] = shutil.which(command[0]) or command[0]
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
    before = HOSTS.read_text()
    HOSTS.write_text(f"{before.rstrip()}\n127.0.0.1 node1 node2 {MARK}\n")
    try:
        yield
    finally:
        lines = HOSTS.read_text().splitlines(keepends=True)
        HOSTS.write_text("".join(line for line in lines if MARK not in line))


def _free_ports(number: int) -> int:
    """The first of `number` consecutive free ports."""
    for first in range(17000, 20000, number):
        with ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
            except OSError:
                continue
    raise RuntimeError("no free ports between 17000 and 20000")


def _cancel_all(environment: dict[str, str]) -> None:
    if jobs := _output(["squeue", "-h", "-o", "%A"], environment).split():
        _output(["scancel", *jobs], environment)
        wait_until(lambda: not _output(["squeue", "-h", "-o", "%A"], environment))


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
    )
    return done.stdout.strip()
