"""A file of every container is a clip for the check, the conversion, datasets, predictions and the web page."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.datasets.made_videos import decode_everything, encode
from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.datasets.records import SPLITS
from timesformer.datasets.sources.clip_files import is_video_name
from timesformer.preparation.command_line import main
from timesformer.web.uploads import find_examples

# Extension, FFmpeg's name of the container of such a file, and a codec that is common in it.
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


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each container; every other extension is in upper case."""
    folder = tmp_path_factory.mktemp("containers") / "wave"
    folder.mkdir()
    frames = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(6)]
    for number, (extension, container, codec) in enumerate(WRITABLE):
        path = folder / f"{number:02d}{extension.upper() if number % 2 else extension}"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        encode(path, frames, codec, container_format=container, **options)
    return folder


@pytest.fixture
def data(clips: Path, tmp_path: Path) -> Path:
    """A dataset of one class, of these files and two others."""
    shutil.copytree(clips, tmp_path / "data/wave")
    for name in ("audio.ogg", "notes.txt"):
        (tmp_path / "data/wave" / name).write_text("x")
    return tmp_path / "data"


def test_extensions_are_documented() -> None:
    documented = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert all(f" {extension} " in documented for extension in VIDEO_EXTENSIONS)
    assert {extension for extension, _, _ in WRITABLE} == set(VIDEO_EXTENSIONS)
    assert all(is_video_name(f"x{change(name)}") for name in VIDEO_EXTENSIONS for change in (str.lower, str.upper))


@pytest.mark.slow
def test_check_and_conversion(clips: Path, data: Path) -> None:
    assert main(["folder", str(data), "--check", "--workers", "1"]) == 0
    expected = {f"wave/{path.name}": len(decode_everything(path)) for path in clips.iterdir()}
    assert {row.path: row.frames for row in Manifest(data / NAME)} == expected
    assert main(["folder", str(data), "--short-side", "24", "--workers", "1"]) == 0
    assert len(list((data.parent / "data_24/wave").glob("*.mp4"))) == len(WRITABLE)


def test_datasets_and_web_page(clips: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 1
    names = sorted(record.name for split in SPLITS for record in load_split(cfg, split).records)
    assert names == sorted(f"wave/{path.name}" for path in clips.iterdir())
    assert "wave/notes.txt" in caplog.text
    assert find_examples(data) == names
