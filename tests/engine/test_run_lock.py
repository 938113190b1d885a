"""One live run in an output folder."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from timesformer.errors import UserError
from timesformer.runtime.run_folder import lock_output_dir

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_claimed_until_its_process_ends_however_that_happens(
    run_net: Callable, tiny_command: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    program = f"""
        import os, signal
        from pathlib import Path
        from timesformer.runtime.run_folder import lock_output_dir
        with lock_output_dir(Path({str(output)!r})):
            loading = os.fork()  # lives on, as a loading process does for a while
            if loading:
                print(loading, flush=True)
            signal.pause()
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE)
    loading = int(holder.stdout.readline())
    try:
        refused = run_net(*tiny_command, "OUTPUT_DIR", str(output))
        assert refused.code == 2
        assert f"another run is writing into OUTPUT_DIR {output} (process {holder.pid} on " in refused.err
        assert "choose another OUTPUT_DIR" in refused.err
        assert [path.name for path in output.iterdir()] == ["run.lock"]
        holder.kill()
        holder.wait()
        with lock_output_dir(output):
            assert (output / "run.lock").read_text().startswith(f"process {os.getpid()} on ")
    finally:
        os.kill(loading, signal.SIGKILL)
        holder.stdout.close()


def test_a_disk_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with lock_output_dir(tmp_path):
        pass
    assert "has no locks" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="could not be written: Not a directory"),
        lock_output_dir(tmp_path / "file" / "out"),
    ):
        pass
