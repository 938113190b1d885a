"""The lock of an output folder."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from timesformer.errors import UserError
from timesformer.runtime.run_folder import lock_output_dir


def test_a_folder_is_locked_until_its_process_ends(run_net: Callable, tiny_command: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    program = f"""
        import os, signal
        from pathlib import Path
        from timesformer.runtime.run_folder import lock_output_dir
        with lock_output_dir(Path({str(output)!r})):
            worker = os.fork()  # may outlive the process
            if worker:
                print(worker, flush=True)
            signal.pause()
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE)
    worker = int(holder.stdout.readline())
    try:
        refused = run_net(*tiny_command, "OUTPUT_DIR", str(output))
        assert refused.code == 2
        assert all(name in refused.err for name in (f"OUTPUT_DIR {output}", str(holder.pid)))
        assert [path.name for path in output.iterdir()] == ["run.lock"]
        holder.kill()
        holder.wait()
        with lock_output_dir(output):
            assert str(os.getpid()) in (output / "run.lock").read_text()
        assert not list(output.iterdir())
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


def test_a_disk_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with lock_output_dir(tmp_path):
        assert str(tmp_path) in caplog.text


def test_an_invalid_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out"), lock_output_dir(tmp_path / "file" / "out"):
        pass
