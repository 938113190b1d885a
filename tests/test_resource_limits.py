"""Commands end with an error, and wait for nothing, where shared memory or open files are too few."""

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
NO_TRAINING = ["TRAIN.ENABLE", "False", "DATA.TEST_CROP_SIZE", "112"]

pytestmark = pytest.mark.slow


def shell(script: str, *arguments: str) -> Outcome:
    """How a shell script ends, whose $@ are these arguments; python is this one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, "bash", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def with_shared_memory() -> Callable[..., Outcome]:
    """with_shared_memory(size, script, arguments): `shell` where /dev/shm has this size, as in a container."""
    mount = "mount -t tmpfs -o size={} tmpfs /dev/shm && {}"
    if shutil.which("unshare") is None or shell("unshare -m bash -c '" + mount.format("4k", "true") + "'").code:
        pytest.skip("another /dev/shm cannot be mounted here: it takes root, or a user namespace")
    return lambda size, script, *arguments: shell(
        f"unshare -m bash -c '{mount.format(size, script)}' bash \"$@\"", *arguments
    )


@pytest.mark.parametrize(("size", "options"), [("64k", LARGE), ("4k", []), ("64k", NO_TRAINING)])
def test_a_run_with_too_little_shared_memory_ends_with_an_error(
    with_shared_memory: Callable[..., Outcome],
    tiny_command: list[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    size: str,
    options: list[str],
) -> None:
    given = [*tiny_command, "DATA_LOADER.NUM_WORKERS", "2", "OUTPUT_DIR", str(tmp_path / "out"), *options]
    if options == NO_TRAINING:
        given += ["TEST.CHECKPOINT_FILE_PATH", str(tiny_checkpoint)]
    ended = with_shared_memory(size, 'exec python tools/run_net.py "$@"', *given)
    assert ended.code == 2, ended.err
    assert "/dev/shm" in ended.err
    assert "DATA_LOADER.NUM_WORKERS" in ended.err


@pytest.mark.parametrize("limit", [16, 24, 40])
def test_a_run_with_too_few_open_files_ends_with_an_error(tiny_command: list[str], tmp_path: Path, limit: int) -> None:
    given = [*tiny_command, "DATA_LOADER.NUM_WORKERS", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    ended = shell(f'ulimit -n {limit}; exec python tools/run_net.py "$@"', *given)
    assert ended.code == 2, ended.err
    assert "ulimit -n" in ended.err
    assert "DATA_LOADER.NUM_WORKERS" in ended.err


def test_predictions_need_no_shared_memory_and_too_few_open_files_are_an_error(
    with_shared_memory: Callable[..., Outcome], tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = ["--checkpoint", str(tiny_checkpoint), str(tiny_data / "test"), "--workers", "2", "--output"]
    predict = 'exec python tools/predict.py "$@"'
    assert with_shared_memory("4k", predict, *given, str(tmp_path / "all.csv")).code == 0
    ended = shell(f"ulimit -n 12; {predict}", *given, str(tmp_path / "none.csv"))
    assert ended.code == 2, ended.err
    assert "ulimit -n" in ended.err
    assert not (tmp_path / "none.csv").exists()
