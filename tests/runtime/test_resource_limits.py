"""Too little shared memory and too few open files end a run with an error."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE
from timesformer.errors import UserError
from timesformer.runtime.launch import run_and_report

# Batches of 150 kB, larger than a shared memory that has room for semaphores.
LARGE = "DATA.TRAIN_CROP_SIZE 112 DATA.TEST_CROP_SIZE 112 DATA.TRAIN_JITTER_SCALES [112,112] DATA_LOADER.NUM_WORKERS 2"
MOUNT = "mount -t tmpfs -o size={} tmpfs /dev/shm"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "key"),
    [(MOUNT.format("64k"), "/dev/shm"), (MOUNT.format("4k"), "/dev/shm"), ("ulimit -n 16", "ulimit -n")],
)
def test_too_few_resources(tiny_command: list[str], tmp_path: Path, limit: str, key: str) -> None:
    script = f'{limit} || exit 99; exec "$0" tools/run_net.py "$@"'  # in a mount namespace of its own
    arguments = [*tiny_command, "OUTPUT_DIR", str(tmp_path / "out"), *LARGE.split()]
    command = ["unshare", "-m", "bash", "-c", script, sys.executable, *arguments]
    options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=PATIENCE, check=False, **options)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("needs root, or a user namespace")
    assert done.returncode == 2, done.stderr
    assert all(name in done.stderr for name in (key, "DATA_LOADER.NUM_WORKERS"))


@pytest.mark.parametrize("kind", [OSError, ImportError, UserError])
def test_open_files_may_run_out_anywhere(caplog: pytest.LogCaptureFixture, kind: type[Exception]) -> None:
    def fail() -> int:
        out_of_files = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "module.py")
        if kind is OSError:
            raise out_of_files
        raise kind("cannot be loaded") from out_of_files

    assert run_and_report(fail) == 2
    assert all(name in caplog.text for name in ("ulimit -n", "DATA_LOADER.NUM_WORKERS"))
