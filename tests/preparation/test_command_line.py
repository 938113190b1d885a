"""datasets/<name>/prepare.py, as a user would call it."""

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

from tests.loopback import Server
from tests.patience import PATIENCE
from tests.rar import rar
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.preparation.clips_on_disk import find_clips
from timesformer.preparation.command_line import main

CLONE = Path(__file__).resolve().parents[3]


@pytest.fixture
def data(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    frames = [np.full((48, 64, 3), 9 * number, np.uint8) for number in range(8)]
    make_video(tmp_path / "data/wave/a.avi", frames)
    make_video(tmp_path / "data/wave/b.avi", frames)
    return tmp_path / "data"


def test_clips_are_converted_and_checked_in_one_go(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("folder", [str(data), "--short-side", "24", "--check", "--workers", "1"]) == 0
    small = data.with_name("data_24")
    assert find_clips(small) == ["wave/a.mp4", "wave/b.mp4"]
    assert [(row.frames, row.width, row.height) for row in Manifest(small / NAME)] == [(8, 32, 24)] * 2
    said = capsys.readouterr()
    assert f"{small}: 2 of 2 clips made" in said.out
    assert f"{small / NAME}: 2 clips, 16 frames, 0.00 hours, 0.00 GB; all can be read" in said.out
    assert "converting clips: 100% 2/2 [" in said.err
    assert not (data / NAME).exists()


def test_names_that_are_no_utf8_are_shown_escaped(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (data / "wave/caf\udce9.avi").write_bytes(b"")
    assert main("folder", [str(data), "--short-side", "24", "--check", "--workers", "1"]) == 1
    assert capfdbinary.readouterr().out.count(b"\n  wave/caf\\udce9.avi: ") == 1
    assert b"\nwave/caf\xe9.avi,wave,0," in (data.with_name("data_24") / NAME).read_bytes()


def test_clips_that_cannot_be_read_are_named_and_told_by_the_status(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "wave/c.avi").write_bytes(b"")
    assert main("folder", [str(data), "--frames", "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "data_frames: 2 of 3 clips made" in said
    assert "1 could not be converted and were copied as they are" in said
    assert "wave/c.avi: the file is empty" in said
    assert main("folder", [str(data), "--check", "--workers", "1"]) == 1
    assert "3 clips, 16 frames, 0.00 hours, 0.00 GB; 1 cannot be read:\n  wave/c.avi: the file is empty" in (
        capsys.readouterr().out
    )


def test_download_unpack_and_check(server: Server, data: Path, tmp_path: Path) -> None:
    shutil.copyfile(data / "wave/b.avi", data / "wave/c.avi")
    clips = {f"wave/{path.name}": path.read_bytes() for path in (data / "wave").iterdir()}
    lists = io.BytesIO()
    with zipfile.ZipFile(lists, "w") as archive:
        archive.writestr("testTrainMulti_7030_splits/wave_test_split1.txt", "a.avi 1\nb.avi 1\nc.avi 2\n")
    server.files |= {"/v.rar": rar({"wave.rar": rar(clips)}), "/l.zip": lists.getvalue()}
    arguments = [str(tmp_path / "hmdb"), "--download", "--url", server.url("/v.rar"), server.url("/l.zip"), "--check"]
    assert main("hmdb51", [*arguments, "--workers", "1"]) == 0
    assert find_clips(tmp_path / "hmdb") == [f"hmdb51_org/wave/{name}.avi" for name in "abc"]
    assert {row.label for row in Manifest(tmp_path / "hmdb" / NAME)} == {"wave"}


def test_a_clip_is_named_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "wave/c.avi").write_bytes(b"")
    assert main("folder", [str(data), "--frames", "--short-side", "24", "--check", "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert said.count("c.avi") == 1
    assert f"{data.with_name('data_24_frames') / NAME}: 3 clips" in said
    assert said.endswith("; 1 cannot be read, 1 of them listed above\n")


def test_empty_folders_are_clips_without_frames_or_classes_without_clips(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "wave/lost").mkdir()
    (data / "run").mkdir()
    assert main("folder", [str(data), "--short-side", "24", "--check", "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "  wave/lost: no frames in this folder" in said
    assert f"{data}: classes without clips: run; put clips there" in said
    assert {row.path for row in Manifest(data.with_name("data_24") / NAME) if row.problem} == {"wave/lost"}
    (data / "wave/lost").rmdir()
    assert main("folder", [str(data), "--check", "--workers", "1"]) == 1
    assert "all can be read" in capsys.readouterr().out


def test_lists_are_held_against_the_clips(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(data), "--check", "--workers", "1"]
    assert main("hmdb51", command) == 1
    assert "all can be read\ntraining would refuse the dataset: " in (said := capsys.readouterr().out)
    assert said.count("has no official split files") == 1
    assert main("muwiges", command) == 1
    assert "clips.csv not found" in capsys.readouterr().out
    shutil.copyfile(data / "wave/b.avi", data / "wave/c.avi")
    (data / "ucfTrainTestlist").mkdir()
    (data / "ucfTrainTestlist/classInd.txt").write_text("1 wave\n")
    (data / "ucfTrainTestlist/trainlist01.txt").write_text("wave/a.avi 1\nwave/b.avi 1\n")
    (data / "ucfTrainTestlist/testlist01.txt").write_text("wave/c.avi\n")
    assert main("ucf101", command) == 0
    (data / "wave/c.avi").unlink()
    assert main("ucf101", command) == 1
    assert "1 of 1 listed clips are not on disk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ROOT"], "nothing to do: give one or more of --download, --short-side 256"),
        (["ROOT", "--short-side", "0"], "'0' found, a whole number from 16 expected"),
        (["ROOT", "--short-side", "abc"], "'abc' found, a whole number from 16 expected"),
        (["ROOT", "--short-side", "25"], "25 found, an even number expected"),
        (["ROOT", "--frames", "--quality", "200"], "'200' found, a whole number from 1 to 95 expected"),
        (["nowhere", "--check"], "nowhere is not a folder"),
        (["ROOT", "--frames", "--output", "ROOT/frames"], "give --output a folder of its own"),
    ],
)
def test_mistakes_are_told_with_status_2(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        status = main("ucf101", [part.replace("ROOT", str(data)) for part in arguments])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hmdb51", "ucf101", "ssv2", "muwiges", "kinetics", "folder"])
def test_every_dataset_has_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(CLONE / f"datasets/{name}/prepare.py"), run_name="__main__")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: datasets/{name}/prepare.py [-h] ")
    assert ("--download" in said) == (name in ("hmdb51", "ucf101"))


def test_the_command_runs_from_a_clone_that_is_not_installed(data: Path) -> None:
    command = [sys.executable, "datasets/folder/prepare.py", str(data), "--check", "--workers", "1"]
    done = subprocess.run(
        command, cwd=CLONE, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "2 clips, 16 frames" in done.stdout
