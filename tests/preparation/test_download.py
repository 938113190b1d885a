"""Downloading a dataset into its layout, with the command or when training starts."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from fvcore.common.config import CfgNode

from tests.conftest import TINY_CONFIG, Outcome
from tests.datasets.sources.common import make_cfg
from tests.loopback import Server
from tests.rar import rar
from timesformer.datasets.records import DataError
from timesformer.fetch import DownloadError
from timesformer.preparation import download as module
from timesformer.preparation.download import ARCHIVES, Archive, download, download_if_asked

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
    """URLs of a tiny UCF101, in place of its makers'."""
    server.files |= {"/data/UCF101.rar": VIDEOS, "/data/lists.zip": zipped({"classInd": "1 Archery\n"})}
    urls = server.url("/data/UCF101.rar"), server.url("/data/lists.zip")
    folders = [archive.folder for archive in ARCHIVES["ucf101"]]
    monkeypatch.setitem(module.ARCHIVES, "ucf101", tuple(map(Archive, urls, folders)))
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


def test_interrupted_download_continues(
    server: Server, urls: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.breaks = [10**6, 30, 0, 0, 0]  # all of the lists, the start of the videos
    with pytest.raises(DownloadError, match=r"UCF101\.rar"):
        download("ucf101", tmp_path)
    assert files_in(tmp_path) == ["archives/UCF101.rar.partial", "archives/UCF101.rar.partial.etag", *LAYOUT[2:]]
    server.asked.clear()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("timesformer.preparation.unpack.shutil.copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download("ucf101", tmp_path)
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
    with pytest.raises(DataError, match=r"UCF101\.rar/ucf"):
        download("ucf101", path / "ucf")


class TestOnStart:
    @pytest.fixture
    def cfg(self, tmp_path: Path) -> CfgNode:
        return make_cfg("ucf101", tmp_path / "data", DOWNLOAD=True)

    def test_missing_dataset_is_downloaded(
        self, server: Server, urls: tuple[str, str], cfg: CfgNode, tmp_path: Path
    ) -> None:
        server.files["/mirror/v.rar"] = VIDEOS
        (tmp_path / "data/lost+found").mkdir(parents=True)
        cfg.DATA.DOWNLOAD_URLS = [server.url("/mirror/v.rar"), ""]
        for _ in range(2):
            download_if_asked(cfg)
        assert [path for path, _ in server.asked] == ["/data/lists.zip", "/mirror/v.rar"]
        assert len(files_in(tmp_path / "data")) == 4

    @pytest.mark.parametrize("is_asked", [False, True])
    def test_other_datasets_are_left_alone(
        self, server: Server, urls: tuple[str, str], cfg: CfgNode, caplog: pytest.LogCaptureFixture, is_asked: bool
    ) -> None:
        cfg.DATA.DOWNLOAD = is_asked
        Path(cfg.DATA.PATH_TO_DATA_DIR, "Archery").mkdir(parents=True)
        download_if_asked(cfg)
        assert server.asked == []
        assert ("Archery" in caplog.text) == is_asked

    @pytest.fixture
    def command(self, server: Server, tmp_path: Path) -> list[str]:
        """A run on UCF101 of two classes: three groups of two clips for training, one for test."""
        clips, lists = {}, {"classInd": "1 Archery\n2 Biking", "trainlist01": "", "testlist01": ""}
        for label, name in enumerate(("Archery", "Biking")):
            for group, number in ((group, number) for group in range(1, 5) for number in (1, 2)):
                with av.open(str(tmp_path / "clip.avi"), "w") as container:
                    stream = container.add_stream("mpeg4", 25)
                    stream.width, stream.height = 32, 24
                    frame = np.full((24, 32, 3), 100 * label + 10 * group, np.uint8)
                    for _ in range(3):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())
                clip = f"{name}/v_{name}_g{group:02}_c{number:02}.avi"
                clips[f"UCF-101/{clip}"] = (tmp_path / "clip.avi").read_bytes()
                lists["testlist01" if group == 1 else "trainlist01"] += (
                    f"{clip}\n" if group == 1 else f"{clip} {label + 1}\n"
                )
        server.files |= {"/UCF101.rar": rar(clips), "/lists.zip": zipped(lists)}
        (tmp_path / "tiny.yaml").write_text(TINY_CONFIG)
        return [
            *("--cfg", str(tmp_path / "tiny.yaml"), "TRAIN.DATASET", "ucf101", "TEST.DATASET", "ucf101"),
            *("MODEL.NUM_CLASSES", "2", "SOLVER.MAX_EPOCH", "1", "DATA.PATH_TO_DATA_DIR", str(tmp_path / "ucf101")),
            *("DATA.DOWNLOAD", "True", "OUTPUT_DIR", str(tmp_path / "out")),
            *("DATA.DOWNLOAD_URLS", str([server.url("/UCF101.rar"), server.url("/lists.zip")])),
        ]

    @pytest.mark.slow
    def test_run_downloads_its_dataset(
        self, server: Server, command: list[str], run_net: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        lists = server.files.pop("/lists.zip")
        failed = run_net(*command)
        assert failed.code == 2
        assert str(tmp_path / "ucf101/archives/lists.zip") in failed.err
        server.files["/lists.zip"] = lists
        server.asked.clear()
        outcome = run_net(*command)
        assert outcome.code == 0, outcome.err
        assert json.loads((tmp_path / "out/results.json").read_text())["num_videos"] == 4
        assert [path for path, _ in server.asked] == ["/lists.zip", "/UCF101.rar"]
