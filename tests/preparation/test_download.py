"""Fetching a dataset: its archives, checked, unpacked into its layout, once, on command or when training starts."""

import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from tests.loopback import Server
from tests.rar import rar
from timesformer.config import check, get_cfg
from timesformer.config.options import OPTIONS
from timesformer.datasets.records import DataError
from timesformer.fetch import DownloadError
from timesformer.preparation import download as module
from timesformer.preparation.download import ARCHIVES, Archive, download, download_if_asked

VIDEOS = rar({"UCF-101/Archery/v_Archery_g01_c01.avi": b"video"})


def lists() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ucfTrainTestlist/classInd.txt", "1 Archery\n")
    return buffer.getvalue()


@pytest.fixture
def ucf101(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Addresses of a tiny UCF101, which are its makers' as well."""
    server.files |= {"/data/UCF101.rar": VIDEOS, "/data/lists.zip": lists()}
    urls = server.url("/data/UCF101.rar"), server.url("/data/lists.zip")
    folders = [archive.folder for archive in ARCHIVES["ucf101"]]
    archives = tuple(Archive(url, folder) for url, folder in zip(urls, folders, strict=True))
    monkeypatch.setitem(module.ARCHIVES, "ucf101", archives)
    return urls


def files_in(folder: Path) -> list[str]:
    hidden = (".lock", ".sha256")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix not in hidden)


LAYOUT = [
    "UCF-101/Archery/v_Archery_g01_c01.avi",
    "archives/UCF101.rar",
    "archives/lists.zip",
    "ucfTrainTestlist/classInd.txt",
]


def test_a_dataset_comes_into_its_layout_once_also_by_many_at_the_same_time(
    server: Server, ucf101: tuple[str, str], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download("ucf101", tmp_path / "new/ucf"), range(4)))
    assert files_in(tmp_path / "new/ucf") == LAYOUT
    assert len(server.asked) == 2
    note = (tmp_path / "new/ucf/archives/UCF101.rar.sha256").read_text()
    assert note == f"{hashlib.sha256(VIDEOS).hexdigest()}  UCF101.rar\n"


def test_an_interrupted_download_goes_on(server: Server, ucf101: tuple[str, str], tmp_path: Path) -> None:
    server.breaks = [10**6, 30, 0, 0, 0]  # the lists come, of the videos the beginning
    with pytest.raises(DownloadError, match="the same command goes on"):
        download("ucf101", tmp_path)
    assert files_in(tmp_path) == ["archives/UCF101.rar.partial", "archives/UCF101.rar.partial.etag", *LAYOUT[2:]]
    server.asked.clear()
    download("ucf101", tmp_path)
    assert files_in(tmp_path) == LAYOUT
    assert server.asked == [("/data/UCF101.rar", "bytes=30-")]


def test_an_interrupted_unpacking_fetches_nothing_again(
    server: Server, ucf101: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("timesformer.preparation.unpack._copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download("ucf101", tmp_path)
    download("ucf101", tmp_path)
    assert files_in(tmp_path) == LAYOUT
    assert [path for path, _ in server.asked] == ["/data/lists.zip", "/data/UCF101.rar"]


def test_an_archive_that_changed_on_this_disk_is_told(server: Server, ucf101: tuple[str, str], tmp_path: Path) -> None:
    download("ucf101", tmp_path)
    (tmp_path / "UCF-101").rename(tmp_path / "moved")
    (tmp_path / "archives/UCF101.rar").write_bytes(VIDEOS[::-1])
    with pytest.raises(DataError, match=r"UCF101.rar has SHA-256 .*, but had .* when it was fetched: remove it"):
        download("ucf101", tmp_path)


def test_a_sum_that_is_known_goes_behind_the_address(server: Server, ucf101: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"lists.zip#sha256=0+: the file has SHA-256"):
        download("ucf101", tmp_path, ("", f"{ucf101[1]}#sha256={'0' * 64}"))
    assert files_in(tmp_path) == []


def test_an_archive_put_there_by_hand_is_taken_and_the_message_says_where(
    server: Server, ucf101: tuple[str, str], tmp_path: Path
) -> None:
    del server.files["/data/UCF101.rar"]
    place = tmp_path / "archives/UCF101.rar"
    with pytest.raises(DownloadError, match=rf"UCF101.rar answers 404 .*by hand, e.g. with a browser, to {place}"):
        download("ucf101", tmp_path)
    place.write_bytes(VIDEOS)
    download("ucf101", tmp_path)
    assert files_in(tmp_path) == LAYOUT


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/ucf cannot be written: Not a directory"):
        download("ucf101", tmp_path / "file/ucf")


def test_the_makers_addresses_are_where_the_configuration_says_they_can_be() -> None:
    assert sorted(ARCHIVES) == sorted(OPTIONS["DATA.DOWNLOAD"].conditions()[0][2])
    for archives in ARCHIVES.values():
        assert all(archive.url.startswith("https://") for archive in archives)


class TestWhenTrainingStarts:
    @pytest.fixture
    def cfg(self, tmp_path: Path) -> CfgNode:
        cfg = get_cfg()
        cfg.TRAIN.DATASET = cfg.TEST.DATASET = "ucf101"
        cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path / "data")
        cfg.DATA.DOWNLOAD = True
        return cfg

    def test_what_is_missing_is_fetched_into_a_new_folder(
        self, server: Server, ucf101: tuple[str, str], cfg: CfgNode, tmp_path: Path
    ) -> None:
        for _ in ("train", "val", "test"):
            download_if_asked(cfg)
        assert files_in(tmp_path / "data") == LAYOUT
        assert len(server.asked) == 2

    def test_nothing_is_fetched_unasked(self, server: Server, ucf101: tuple[str, str], cfg: CfgNode) -> None:
        cfg.DATA.DOWNLOAD = False
        download_if_asked(cfg)
        assert server.asked == []

    def test_a_dataset_laid_out_by_hand_is_left_alone_and_named(
        self,
        server: Server,
        ucf101: tuple[str, str],
        cfg: CfgNode,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "data/Archery").mkdir(parents=True)
        download_if_asked(cfg)
        assert server.asked == []
        assert len(caplog.messages) == 1
        assert "Archery" in caplog.text

    def test_other_addresses_can_be_given(
        self, server: Server, ucf101: tuple[str, str], cfg: CfgNode, tmp_path: Path
    ) -> None:
        server.files["/mirror/v.rar"] = VIDEOS
        cfg.DATA.DOWNLOAD_URLS = [server.url("/mirror/v.rar"), ""]
        download_if_asked(cfg)
        assert [path for path, _ in server.asked] == ["/data/lists.zip", "/mirror/v.rar"]

    def test_the_folder_need_not_exist_but_the_dataset_must_be_one_on_offer(self, cfg: CfgNode) -> None:
        keys = {"DATA.PATH_TO_DATA_DIR", "DATA.DOWNLOAD", "DATA.DOWNLOAD_URLS"}
        assert not keys & {problem.key for problem in check(cfg)}
        cfg.DATA.DOWNLOAD = False
        assert "DATA.PATH_TO_DATA_DIR" in {problem.key for problem in check(cfg)}
        cfg.DATA.DOWNLOAD, cfg.DATA.DOWNLOAD_URLS = True, ["https://a.example/b"]
        assert "DATA.DOWNLOAD_URLS" in {problem.key for problem in check(cfg)}
        cfg.TRAIN.DATASET = cfg.TEST.DATASET = "kinetics"
        assert "DATA.DOWNLOAD" in {problem.key for problem in check(cfg)}
