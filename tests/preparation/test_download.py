"""Downloading a dataset into its layout, with the command or when training starts."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY_CONFIG, Outcome
from tests.datasets.sources.common import make_cfg
from tests.loopback import Server
from tests.rar import rar
from timesformer.commands.prepare import main
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError
from timesformer.fetch import DownloadError
from timesformer.preparation.archive_urls import ARCHIVE_URLS
from timesformer.preparation.download import download, download_if_asked

VIDEOS = rar({"UCF-101/Archery/v_Archery_g01_c01.avi": b"video"})
LAYOUT = [
    "UCF-101/Archery/v_Archery_g01_c01.avi",
    "archives/UCF101.rar",
    "archives/lists.zip",
    "ucfTrainTestlist/classInd.txt",
]


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"ucfTrainTestlist/{name}.txt", text)
    return buffer.getvalue()


@pytest.fixture
def urls(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """URLs of a tiny UCF101, in place of its authors'."""
    server.files |= {"/data/UCF101.rar": VIDEOS, "/data/lists.zip": zipped({"classInd": "1 Archery\n"})}
    urls = server.url("/data/UCF101.rar"), server.url("/data/lists.zip")
    monkeypatch.setitem(ARCHIVE_URLS, "ucf101", urls)
    return urls


def files_in(folder: Path) -> list[str]:
    hidden = (".lock", ".sha256")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix not in hidden)


def test_many_processes_download_once(server: Server, urls: tuple[str, str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download("ucf101", tmp_path / "new/ucf"), range(4)))
    assert files_in(tmp_path / "new/ucf") == LAYOUT
    assert len(server.asked) == 2
    checksum = (tmp_path / "new/ucf/archives/UCF101.rar.sha256").read_text()
    assert checksum == f"{hashlib.sha256(VIDEOS).hexdigest()}  UCF101.rar\n"


def test_interrupted_download_continues(server: Server, urls: tuple[str, str], tmp_path: Path) -> None:
    server.breaks = [10**6, 30, 0, 0, 0]  # all of the lists, the start of the videos
    with pytest.raises(DownloadError, match=r"UCF101\.rar"):
        download("ucf101", tmp_path)
    assert files_in(tmp_path) == ["archives/UCF101.rar.partial", "archives/UCF101.rar.partial.etag", *LAYOUT[2:]]
    server.asked.clear()
    download("ucf101", tmp_path)
    assert files_in(tmp_path) == LAYOUT
    assert server.asked == [("/data/UCF101.rar", "bytes=30-")]


def test_changed_archive_is_an_error(urls: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"lists\.zip#sha256=0+"):
        download("ucf101", tmp_path, ("", f"{urls[1]}#sha256={'0' * 64}"))
    assert files_in(tmp_path) == []
    download("ucf101", tmp_path)
    (tmp_path / "UCF-101").rename(tmp_path / "moved")
    (tmp_path / "archives/UCF101.rar").write_bytes(VIDEOS[::-1])
    with pytest.raises(DataError, match=r"UCF101\.rar"):
        download("ucf101", tmp_path)


def test_archive_may_be_put_there_by_hand(server: Server, urls: tuple[str, str], tmp_path: Path) -> None:
    del server.files["/data/UCF101.rar"]
    path = tmp_path / "archives/UCF101.rar"
    with pytest.raises(DownloadError, match=str(path)):
        download("ucf101", tmp_path)
    path.write_bytes(VIDEOS)
    download("ucf101", tmp_path)
    assert files_in(tmp_path) == LAYOUT


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "hmdb_simp"])
@pytest.mark.parametrize("is_asked", [False, True])
def test_other_folders_are_left_alone(
    server: Server,
    urls: tuple[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    is_asked: bool,
    dataset: str,
) -> None:
    (tmp_path / "data/Archery").mkdir(parents=True)
    download_if_asked(make_cfg(dataset, tmp_path / "data", DOWNLOAD=is_asked))
    assert server.asked == []
    assert ("Archery" in caplog.text) == is_asked


@pytest.mark.slow
def test_run_downloads_its_dataset(
    server: Server, tmp_path: Path, make_video: Callable[..., Path], run_net: Callable[..., Outcome]
) -> None:
    clips, lists = {}, {"classInd": "1 Archery\n2 Biking", "trainlist01": "", "testlist01": ""}
    for label, name in enumerate(("Archery", "Biking"), 1):
        for group in range(1, 5):  # the first for test
            clip = f"{name}/v_{name}_g{group:02}_c01.avi"
            frame = np.full((24, 32, 3), 100 * label + 10 * group, np.uint8)
            clips[f"UCF-101/{clip}"] = make_video(tmp_path / "clip.avi", [frame] * 3).read_bytes()
            lists["testlist01" if group == 1 else "trainlist01"] += f"{clip}\n" if group == 1 else f"{clip} {label}\n"
    (tmp_path / "tiny.yaml").write_text(TINY_CONFIG)
    (tmp_path / "ucf101/lost+found").mkdir(parents=True)
    command = [
        *("--cfg", str(tmp_path / "tiny.yaml"), "TRAIN.DATASET", "ucf101", "TEST.DATASET", "ucf101"),
        *("MODEL.NUM_CLASSES", "2", "SOLVER.MAX_EPOCH", "1", "DATA.PATH_TO_DATA_DIR", str(tmp_path / "ucf101")),
        *("DATA.DOWNLOAD", "True", "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATA.DOWNLOAD_URLS", str([server.url("/UCF101.rar"), server.url("/lists.zip")])),
    ]
    failed = run_net(*command)
    assert failed.code == 2
    assert str(tmp_path / "ucf101/archives/lists.zip") in failed.err
    server.files |= {"/UCF101.rar": rar(clips), "/lists.zip": zipped(lists)}
    server.asked.clear()
    outcome = run_net(*command)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/results.json").read_text())["num_videos"] == 2
    assert [path for path, _ in server.asked] == ["/lists.zip", "/UCF101.rar"]


def hmdb_simp(frames: int = 4) -> bytes:
    """An archive of two classes, each with 10 folders of frames that are named by hashes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for label, name in enumerate(("climb_stairs", "wave")):
            for clip in range(10):
                folder = hashlib.sha256(f"{name}{clip}".encode()).hexdigest()[:8].upper()
                for number in range(1, frames + 1):
                    frame = io.BytesIO()
                    Image.fromarray(np.full((24, 32, 3), 100 * label + 10 * number, np.uint8)).save(frame, "JPEG")
                    archive.writestr(f"HMDB_simp/{name}/{folder}/{number:04}.jpg", frame.getvalue())
        archive.writestr("__MACOSX/HMDB_simp/._wave", b"")
    return buffer.getvalue()


@pytest.mark.slow
def test_hmdb_simp_is_downloaded_and_split_by_one_command(server: Server, tmp_path: Path) -> None:
    server.files["/HMDB_simp.zip"] = hmdb_simp()
    root = tmp_path / "data"
    command = ["hmdb_simp", str(root), "--download", "--url", server.url("/HMDB_simp.zip"), "--workers", "1"]
    server.breaks = [1000, 0, 0, 0]
    assert main(command) == 2
    assert main(command) == 0
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [".archives", "climb_stairs", "wave"]
    splits = [load_split(make_cfg("hmdb_simp", root, 2), split) for split in SPLITS]
    assert [len(split.records) for split in splits] == [14, 4, 2]
    assert splits[0].class_names == ("climb_stairs", "wave")
    asked = len(server.asked)
    shutil.move(root / "wave", root / ".HMDB_simp/wave")  # as if interrupted while folders were moved
    assert main([*command, "--force"]) == 0
    assert len(server.asked) == asked
    assert [len(load_split(make_cfg("hmdb_simp", root, 2), split).records) for split in SPLITS] == [14, 4, 2]


@pytest.mark.slow
def test_run_downloads_and_splits_hmdb_simp(server: Server, tmp_path: Path, run_net: Callable[..., Outcome]) -> None:
    server.files["/HMDB_simp.zip"] = hmdb_simp()
    (tmp_path / "tiny.yaml").write_text(TINY_CONFIG)
    outcome = run_net(
        *("--cfg", str(tmp_path / "tiny.yaml"), "TRAIN.DATASET", "hmdb_simp", "TEST.DATASET", "hmdb_simp"),
        *("MODEL.NUM_CLASSES", "2", "SOLVER.MAX_EPOCH", "1", "DATA.PATH_TO_DATA_DIR", str(tmp_path / "data")),
        *("DATA.DOWNLOAD", "True", "DATA.DOWNLOAD_URLS", str([server.url("/HMDB_simp.zip"), ""])),
        *("OUTPUT_DIR", str(tmp_path / "out")),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/results.json").read_text())["num_videos"] == 2
    assert [path for path, _ in server.asked] == ["/HMDB_simp.zip"]
