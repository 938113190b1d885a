"""A file of every container is a clip for the check, the conversion, datasets, predictions and the web page."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, load_command
from tests.datasets.made_videos import decode_everything, encode
from tests.datasets.sources.common import make_cfg
from timesformer.commands.prepare import main
from timesformer.datasets.catalog import load_split
from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.decoding.packet_source import DECODE_ERRORS, open_container
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.datasets.records import SPLITS
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
@pytest.mark.slow
def test_file_of_each_container_is_a_clip(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data, frames = tmp_path / "data", [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(6)]
    expected, skipped, table = {}, ("audio.ogg", "notes.txt"), tmp_path / "predictions.csv"
    for number, (extension, container, codec) in enumerate(WRITABLE):
        name = f"wave/{number:02d}{extension.upper() if number % 2 else extension}"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        encode(data / name, frames, codec, container_format=container, **options)
        expected[name] = len(decode_everything(data / name))
    for name in skipped:
        (data / "wave" / name).write_text("x")

    def is_named_once(text: str) -> bool:
        return sum(all(name in line for name in skipped) for line in text.splitlines()) == 1

    (data / "wave_test_split1.txt").write_text("".join(f"{n:02d}.avi {1 + n % 2}\n" for n in range(len(WRITABLE))))
    for dataset in ("folder", "hmdb51"):
        cfg = make_cfg(dataset, data, 1)
        names = sorted(record.path for split in SPLITS for record in load_split(cfg, split).records)
        assert names == [str(data / name) for name in sorted(expected)]
    (data / "wave_test_split1.txt").unlink()
    assert find_examples(data) == sorted(expected)
    capfd.readouterr()
    for options in (["--check"], ["--short-side", "24"]):
        assert main(["folder", str(data), *options, "--workers", "1"]) == 0
    assert {row.path: row.frames for row in Manifest(data / NAME)} == expected
    assert len(list((tmp_path / "data_24/wave").glob("*.mp4"))) == len(WRITABLE)
    arguments = ["--checkpoint", tiny_checkpoint, "--device", "cpu", "--workers", 0, data, "--output", table]
    monkeypatch.setattr("sys.argv", ["predict.py", *map(str, arguments)])
    assert load_command("predict").main() == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["video"], row["error"]) for row in rows] == [(str(data / name), "") for name in sorted(expected)]
    assert is_named_once(capfd.readouterr().err)


def test_files_that_name_other_files_are_not_opened(tmp_path: Path) -> None:
    video, script = tmp_path / "video.mp4", tmp_path / "script.mp4"
    encode(video, [np.zeros((32, 32, 3), np.uint8)] * 2)
    script.write_text("ffconcat version 1.0\nfile video.mp4\n")
    open_container(video).close()
    with pytest.raises(DECODE_ERRORS):
        open_container(script)
