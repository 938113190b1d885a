"""A file of every container is a clip for the check, the conversion, datasets, predictions and the web page."""

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


def test_extensions_are_documented() -> None:
    documented = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert all(f" {extension} " in documented for extension in VIDEO_EXTENSIONS)
    assert {extension for extension, _, _ in WRITABLE} == set(VIDEO_EXTENSIONS)


@pytest.mark.slow
def test_file_of_each_container_is_a_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, frames = tmp_path / "data", [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(6)]
    expected = {}
    for number, (extension, container, codec) in enumerate(WRITABLE):
        name = f"wave/{number:02d}{extension.upper() if number % 2 else extension}"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        encode(data / name, frames, codec, container_format=container, **options)
        expected[name] = len(decode_everything(data / name))
    for name in ("audio.ogg", "notes.txt"):
        (data / "wave" / name).write_text("x")
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 1
    names = sorted(record.name for split in SPLITS for record in load_split(cfg, split).records)
    assert names == find_examples(data) == sorted(expected)
    assert "wave/notes.txt" in caplog.text
    assert main(["folder", str(data), "--check", "--workers", "1"]) == 0
    assert {row.path: row.frames for row in Manifest(data / NAME)} == expected
    assert main(["folder", str(data), "--short-side", "24", "--workers", "1"]) == 0
    assert len(list((tmp_path / "data_24/wave").glob("*.mp4"))) == len(WRITABLE)
