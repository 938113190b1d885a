"""A file of every container that is read, through the commands that a user has: each is a clip everywhere."""

import csv
import logging
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import ROOT, Outcome, load_tool
from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.datasets.records import SPLITS
from timesformer.datasets.sources.clip_files import is_video_name
from timesformer.preparation.command_line import main
from timesformer.web.uploads import find_examples

# Extension, FFmpeg's name of the container that such a file is, and a codec that is common in it.
WRITABLE = [
    *(
        (".avi", "avi", "mpeg4"),
        (".divx", "avi", "mpeg4"),
        (".mkv", "matroska", "libx264"),
        (".webm", "webm", "libvpx"),
    ),
    *((".mp4", "mp4", "libx264"), (".m4v", "ipod", "libx264"), (".mov", "mov", "libx264"), (".qt", "mov", "mjpeg")),
    *((".f4v", "f4v", "libx264"), (".3gp", "3gp", "mpeg4"), (".3g2", "3g2", "mpeg4"), (".mj2", "mov", "jpeg2000")),
    *((".ts", "mpegts", "libx264"), (".mts", "mpegts", "libx264"), (".m2ts", "mpegts", "mpeg2video")),
    *((".m2t", "mpegts", "mpeg2video"), (".mpg", "mpeg", "mpeg1video"), (".mpeg", "svcd", "mpeg2video")),
    *((".mpe", "vcd", "mpeg1video"), (".vob", "vob", "mpeg2video"), (".m1v", "mpeg1video", "mpeg1video")),
    *((".m2v", "mpeg2video", "mpeg2video"), (".mpv", "mpeg2video", "mpeg2video"), (".m4v", "m4v", "mpeg4")),
    *((".wmv", "asf", "wmv2"), (".asf", "asf", "msmpeg4v3"), (".flv", "flv", "flv1"), (".ogv", "ogg", "libvpx")),
    *((".ogm", "ogg", "libvpx"), (".mxf", "mxf", "mpeg2video"), (".nut", "nut", "mpeg4"), (".ivf", "ivf", "libvpx")),
    *((".h264", "h264", "libx264"), (".264", "h264", "libx264"), (".avc", "h264", "libx264")),
    *((".hevc", "hevc", "libx265"), (".h265", "hevc", "libx265"), (".265", "hevc", "libx265")),
    *((".mjpeg", "mjpeg", "mjpeg"), (".mjpg", "mjpeg", "mjpeg"), (".gif", "gif", "gif")),
]


SKIPPED = ["audio.ogg", "notes.txt", "poster.png"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Files of all containers and what PyAV decodes of each, by path; every other extension in upper case."""
    folder = tmp_path_factory.mktemp("containers") / "wave"
    folder.mkdir()
    frames = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(6)]
    counts = {}
    for number, (extension, container, codec) in enumerate(WRITABLE):
        path = folder / f"{number:02d}{extension.upper() if number % 2 else extension}"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        with av.open(str(path), "w", format=container) as file:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
            for frame in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
        with av.open(str(path)) as file:
            counts[str(path)] = sum(1 for _ in file.decode(video=0))
    return counts


@pytest.fixture
def data(made: dict[str, int], tmp_path: Path) -> Path:
    """A dataset of one class, of these files and three others."""
    folder = Path(next(iter(made))).parent
    shutil.copytree(folder, tmp_path / "data/wave")
    for name in SKIPPED:
        (tmp_path / "data/wave" / name).write_text("x")
    return tmp_path / "data"


def test_every_extension_is_tried_and_documented() -> None:
    documented = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert all(f" {extension} " in documented for extension in VIDEO_EXTENSIONS)
    assert {extension for extension, _, _ in WRITABLE} == set(VIDEO_EXTENSIONS)
    assert len(VIDEO_EXTENSIONS) == len(set(VIDEO_EXTENSIONS))
    assert all(is_video_name(f"x{change(name)}") for name in VIDEO_EXTENSIONS for change in (str.lower, str.upper))


def test_a_check_decodes_every_frame_of_all(made: dict[str, int], data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["folder", str(data), "--check", "--workers", "1"]) == 0
    rows = {row.path: row for row in Manifest(data / NAME)}
    assert {name: row.frames for name, row in rows.items()} == {
        f"wave/{Path(path).name}": count for path, count in made.items()
    }
    assert {row.label for row in rows.values()} == {"wave"}
    assert len([line for line in caplog.messages if all(name in line for name in SKIPPED)]) == 1


def test_all_are_converted(data: Path) -> None:
    assert main(["folder", str(data), "--short-side", "24", "--workers", "1"]) == 0
    assert len(list((data.parent / "data_24/wave").glob("*.mp4"))) == len(WRITABLE)


def test_training_and_testing_find_all_and_name_what_is_skipped_once(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 1
    caplog.set_level(logging.WARNING)
    names = sorted(record.name for split in SPLITS for record in load_split(cfg, split).records)
    assert names == sorted(f"wave/{path.name}" for path in (data / "wave").iterdir() if path.name not in SKIPPED)
    assert len(caplog.messages) == 1
    assert all(f"wave/{name}" in caplog.text for name in ("3", *SKIPPED)[1:])
    assert "3 files" in caplog.text


def test_an_official_list_that_names_avi_files_finds_all(data: Path) -> None:
    names = [path.stem for path in sorted((data / "wave").iterdir()) if path.name not in SKIPPED]
    lines = [f"{name}.avi {2 if number % 3 else 1}\n" for number, name in enumerate(names)]
    (data / "testTrainMulti_7030_splits").mkdir()
    (data / "testTrainMulti_7030_splits/wave_test_split1.txt").write_text("".join(lines))
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "hmdb51"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 1
    assert sum(len(load_split(cfg, split).records) for split in SPLITS) == len(names)


def test_predictions_of_a_folder_have_all(
    data: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "predictions.csv"
    given = ["--checkpoint", tiny_checkpoint, "--device", "cpu", "--workers", 0, data, "--output", output]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, given)])
    outcome = Outcome(load_tool("predict").main(), *capsys.readouterr())
    assert outcome.code == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == len(WRITABLE)
    assert {row["error"] for row in rows} == {""}
    assert sum(all(name in line for name in SKIPPED) for line in outcome.err.splitlines()) == 1


def test_the_web_page_takes_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = pytest.importorskip("timesformer.web.page", reason="needs Streamlit")
    found = find_examples(data)
    assert found == sorted(f"wave/{path.name}" for path in (data / "wave").iterdir() if path.name not in SKIPPED)
    offered: list[str] = []
    monkeypatch.setattr(page.st, "file_uploader", lambda label, type: offered.extend(type))
    page._choose_video(page.Options())
    assert set(offered) == set(VIDEO_EXTENSIONS)
