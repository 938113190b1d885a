"""tools/prepare.py, as a user would call it."""

import io
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.datasets.sources.common import write
from tests.loopback import Server
from tests.patience import PATIENCE
from tests.rar import rar
from timesformer.commands.prepare import main
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.preparation.clips_on_disk import find_clips


@pytest.fixture
def data(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    frames = [np.full((48, 64, 3), 9 * number, np.uint8) for number in range(8)]
    make_video(tmp_path / "data/wave/a.avi", frames)
    make_video(tmp_path / "data/wave/b.avi", frames)
    return tmp_path / "data"


def test_convert_and_check(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "wave/caf\udce9.avi").write_bytes(b"")  # unreadable, and not UTF-8
    (data / "wave/lost").mkdir()
    (data / "run").mkdir()
    assert main(["folder", str(data), "--short-side", "24", "--check", "--workers", "1"]) == 1
    small = data.with_name("data_24")
    assert find_clips(small) == ["wave/a.mp4", "wave/b.mp4", "wave/caf\udce9.avi", "wave/lost"]
    rows = list(Manifest(small / NAME))
    assert [(row.frames, row.width, row.height) for row in rows] == [(8, 32, 24)] * 2 + [(0, 0, 0)] * 2
    assert not (data / NAME).exists()
    output = capsys.readouterr().out
    assert output.count("caf") == output.count("wave/lost") == 1
    assert "run" in output
    for path in (data / "wave/lost", data / "run"):
        path.rmdir()
    (data / "wave/caf\udce9.avi").unlink()
    assert main(["folder", str(data), "--frames", "--check", "--workers", "1"]) == 0
    assert find_clips(data.with_name("data_frames")) == ["wave/a", "wave/b"]


def test_download_unpack_and_check(server: Server, data: Path, tmp_path: Path) -> None:
    shutil.copyfile(data / "wave/b.avi", data / "wave/c.avi")
    clips = {f"wave/{path.name}": path.read_bytes() for path in (data / "wave").iterdir()}
    lists = io.BytesIO()
    with zipfile.ZipFile(lists, "w") as archive:
        archive.writestr("testTrainMulti_7030_splits/wave_test_split1.txt", "a.avi 1\nb.avi 1\nc.avi 2\n")
    server.files |= {"/v.rar": rar({"wave.rar": rar(clips)}), "/l.zip": lists.getvalue()}
    urls = [server.url("/v.rar"), server.url("/l.zip")]
    assert main(["hmdb51", str(tmp_path / "hmdb"), "--download", "--url", *urls, "--check", "--workers", "1"]) == 0
    assert find_clips(tmp_path / "hmdb") == [f"hmdb51_org/wave/{name}.avi" for name in "abc"]
    assert {row.label for row in Manifest(tmp_path / "hmdb" / NAME)} == {"wave"}


def test_lists_are_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(data), "--check", "--workers", "1"]
    assert main(["muwiges", *command]) == 1
    assert "clips.csv" in capsys.readouterr().out
    shutil.copyfile(data / "wave/b.avi", data / "wave/c.avi")
    write(data / "ucfTrainTestlist/classInd.txt", "1 wave")
    write(data / "ucfTrainTestlist/trainlist01.txt", "wave/a.avi 1", "wave/b.avi 1")
    write(data / "ucfTrainTestlist/testlist01.txt", "wave/c.avi")
    assert main(["ucf101", *command]) == 0
    (data / "wave/c.avi").unlink()
    assert main(["ucf101", *command]) == 1
    assert "testlist01.txt line 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ucf101", "ROOT"], "--download"),
        (["folder", "ROOT", "--short-side", "25"], "--short-side"),
        (["folder", "ROOT", "--frames", "--quality", "200"], "--quality"),
        (["folder", "nowhere", "--check"], "nowhere"),
        (["folder", "ROOT", "--frames", "--output", "ROOT/frames"], "--output"),
        (["hmdb_simp", "ROOT", "--val", "nan"], "--val"),
        (["unknown", "ROOT"], "unknown"),
    ],
)
def test_mistakes_exit_with_status_2(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    try:
        status = main([part.replace("ROOT", str(data)) for part in arguments])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hmdb51", "ucf101", "ssv2", "muwiges", "kinetics", "folder", "hmdb_simp"])
def test_earlier_paths_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / f"datasets/{name}/prepare.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert f"prepare.py {name} [-h]" in output
    assert ("--download" in output) == (name in ("hmdb51", "hmdb_simp", "ucf101"))


@pytest.mark.slow
def test_clone_that_is_not_installed(data: Path) -> None:
    command = [sys.executable, "datasets/folder/prepare.py", str(data), "--check", "--workers", "1"]
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (data / NAME).is_file()
    assert "wave" in (data / "data_report.html").read_text()
