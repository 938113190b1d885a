"""A Slurm cluster on this machine alone: its controller and some nodes, until the end of a `with` block.

By hand: `python tests/slurm/cluster.py` starts one and prints what to export to use it; Ctrl-C ends it.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HOSTS = Path("/etc/hosts")
MARK = "# nodes of a test"
PATIENCE = 120.0  # seconds that a daemon may take to be there, or to end

# Nothing waits for its turn longer than it must: the defaults are those of a cluster with thousands of jobs.
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
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    missing = [tool for tool in ("slurmctld", "slurmd", "sbatch", "munged", "mungekey") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0 or not os.access(HOSTS, os.W_OK):
        return f"daemons of Slurm, and names of nodes in {HOSTS}, need root"
    return ""


@contextmanager
def cluster(nodes: int = 2, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Starts a controller and as many nodes, named node1, node2, ...; yields the variables that its commands need."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        logs = stack.enter_context((folder / "daemons.log").open("wb"))
        stack.enter_context(_names(nodes))

        munge = folder / "munge"
        munge.mkdir(mode=0o755)
        owner = pwd.getpwnam("munge")
        os.chown(munge, owner.pw_uid, owner.pw_gid)
        as_munge = {"user": "munge", "group": "munge", "stdout": logs, "stderr": logs}
        subprocess.run(["mungekey", "--create", f"--keyfile={munge}/key"], check=True, **as_munge)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        stack.enter_context(_daemon(["munged", "--foreground", *options], **as_munge))
        _wait_until(lambda: (munge / "socket").exists(), folder)

        port = _free_ports(nodes + 1)
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            nodes=nodes,
            cpus=cpus,
            port=port,
            first=port + 1,
            last=port + nodes,
        )
        configuration = folder / "slurm.conf"
        configuration.write_text(text)
        variables = {"SLURM_CONF": str(configuration)}
        environment = {**os.environ, **variables}
        said = {"env": environment, "stdout": logs, "stderr": logs}
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], **said))
        for number in range(1, nodes + 1):
            stack.enter_context(_daemon(["slurmd", "-D", "-N", f"node{number}"], **said))
        # The last to be set up is the first to be undone: jobs end while there are daemons to end them.
        stack.callback(_cancel_all, environment)
        _wait_until(lambda: _said(["sinfo", "-h", "-t", "idle", "-o", "%D"], environment) == str(nodes), folder)
        yield variables


@contextmanager
def _daemon(command: list[str], **options: object) -> Iterator[None]:
    command[0] = shutil.which(command[0]) or command[0]
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _names(nodes: int) -> Iterator[None]:
    """Makes the names of the nodes known, as a cluster's are."""
    before = HOSTS.read_text()
    HOSTS.write_text(f"{before.rstrip()}\n127.0.0.1 {' '.join(f'node{n + 1}' for n in range(nodes))} {MARK}\n")
    try:
        yield
    finally:
        lines = HOSTS.read_text().splitlines(keepends=True)
        HOSTS.write_text("".join(line for line in lines if MARK not in line))


def _free_ports(number: int) -> int:
    """The first of so many ports in a row that are free."""
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
    jobs = _said(["squeue", "-h", "-o", "%A"], environment).split()
    if jobs:
        _said(["scancel", *jobs], environment)
        deadline = time.monotonic() + PATIENCE
        while _said(["squeue", "-h", "-o", "%A"], environment) and time.monotonic() < deadline:
            time.sleep(0.1)


def _said(command: list[str], environment: dict[str, str]) -> str:
    # Without a controller, these commands wait for it.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout.strip()


def _wait_until(condition: object, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the cluster did not come up:\n{(folder / 'daemons.log').read_text()[-3000:]}")
        time.sleep(0.05)


if __name__ == "__main__":
    if reason := why_not():
        raise SystemExit(reason)
    with cluster() as exported:
        print("\n".join(f"export {name}={value}" for name, value in exported.items()), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
