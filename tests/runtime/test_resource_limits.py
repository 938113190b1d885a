"""Too little shared memory and too few open files end commands with an error."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Outcome
from tests.patience import PATIENCE

# Batches of 150 kB, larger than a shared memory that has room for semaphores.
LARGE = ["DATA.TRAIN_CROP_SIZE", "112", "DATA.TEST_CROP_SIZE", "112", "DATA.TRAIN_JITTER_SCALES", "[112,112]"]

pytestmark = pytest.mark.slow


def shell(script: str, *arguments: str) -> Outcome:
    """How a shell script with arguments ends."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, "bash", *arguments]
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=PATIENCE, check=False, **options)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def with_shared_memory() -> Callable[..., Outcome]:
    """with_shared_memory(size, script, arguments): `shell` with a /dev/shm of this size, as in a container."""
    mount = "mount -t tmpfs -o size={} tmpfs /dev/shm && {}"
    if shutil.which("unshare") is None or shell("unshare -m bash -c '" + mount.format("4k", "true") + "'").code:
        pytest.skip("/dev/shm cannot be mounted: this needs root, or a user namespace")
    return lambda size, script, *arguments: shell(
        f"unshare -m bash -c '{mount.format(size, script)}' bash \"$@\"", *arguments
    )


@pytest.mark.parametrize(("size", "options"), [("64k", LARGE), ("4k", [])])
def test_too_little_shared_memory(
    with_shared_memory: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path, size: str, options: list[str]
) -> None:
    arguments = [*tiny_command, "DATA_LOADER.NUM_WORKERS", "2", "OUTPUT_DIR", str(tmp_path / "out"), *options]
    ended = with_shared_memory(size, 'exec python tools/run_net.py "$@"', *arguments)
    assert ended.code == 2, ended.err
    assert all(name in ended.err for name in ("/dev/shm", "DATA_LOADER.NUM_WORKERS"))


@pytest.mark.parametrize("limit", [16, 40])
def test_too_few_open_files(tiny_command: list[str], tmp_path: Path, limit: int) -> None:
    arguments = [*tiny_command, "DATA_LOADER.NUM_WORKERS", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    ended = shell(f'ulimit -n {limit}; exec python tools/run_net.py "$@"', *arguments)
    assert ended.code == 2, ended.err
    assert all(name in ended.err for name in ("ulimit -n", "DATA_LOADER.NUM_WORKERS"))
