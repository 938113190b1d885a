"""Datasets that their makers offer for download: HMDB51 and UCF101, fetched and unpacked into the layout they train in.

The makers publish no sums of their archives, so the SHA-256 of what came is written beside it: it tells a later change
on this disk, and tells two people whether they have the same file. A sum that is known goes behind `#` in the address.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from filelock import FileLock, Timeout
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.datasets.records import DataError
from timesformer.datasets.sources.clip_files import list_classes
from timesformer.errors import shorten
from timesformer.fetch import digest, fetch
from timesformer.preparation.unpack import unpack

logger = logging.getLogger(__name__)

ARCHIVES_FOLDER = "archives"


@dataclass(frozen=True)
class Archive:
    """An archive at its maker's address (which may move), and the folder in the dataset's that it is unpacked to."""

    url: str
    folder: str


ARCHIVES: dict[str, tuple[Archive, Archive]] = {
    "hmdb51": (
        Archive("https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar", "hmdb51_org"),
        Archive(
            "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
            "testTrainMulti_7030_splits",
        ),
    ),
    "ucf101": (
        Archive("https://www.crcv.ucf.edu/data/UCF101/UCF101.rar", "UCF-101"),
        Archive(
            "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            "ucfTrainTestlist",
        ),
    ),
}
"""Videos and official lists of each dataset that can be downloaded, by its name in TRAIN.DATASET."""


def download(name: str, root: Path, urls: Sequence[str] = ("", "")) -> None:
    """Fetch and unpack what `root` lacks of the dataset `name` of ARCHIVES; what is there is not looked at.

    Archives are kept in `root`/archives, and one that was put there by hand is taken. The call can be repeated after
    an interruption, and made by several processes at the same time: one works, the others wait.

    Args:
        name: "hmdb51" or "ucf101".
        root: folder of the dataset; made if need be.
        urls: addresses of the archives of the videos and of the lists; empty for those of ARCHIVES.

    Raises:
        DownloadError: see `timesformer.fetch.fetch`.
        DataError: if an archive cannot be unpacked, or is not the one that was once fetched.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _turn(root):
            # The small archive of the lists first: where no connection is, that shows at once.
            for archive, url in reversed([*zip(ARCHIVES[name], urls, strict=True)]):
                if not (root / archive.folder).is_dir():
                    unpack(_fetch(url or archive.url, root), root / archive.folder)
    except OSError as error:
        raise DataError(f"{root} cannot be written: {error.strerror or error}; choose another folder") from error


def download_if_asked(cfg: CfgNode) -> None:
    """Download the datasets that `cfg` trains and tests on to DATA.PATH_TO_DATA_DIR, if DATA.DOWNLOAD is set.

    A folder with class folders in it that no download made is a dataset laid out by hand, and left alone. All processes
    of a run may call this: one downloads, the others wait. Raises DownloadError and DataError as `download`.
    """
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if not cfg.DATA.DOWNLOAD:
        return
    for name in sorted({cfg.TRAIN.DATASET, cfg.TEST.DATASET} & ARCHIVES.keys()):
        wanted = {archive.folder for archive in ARCHIVES[name]}
        present = {path.name for path in list_classes(root)} if root.is_dir() else set()
        if others := present - wanted - {ARCHIVES_FOLDER}:
            if not wanted <= present:
                logger.warning(
                    "%s is not downloaded: %s holds %s, so it is a dataset laid out by hand. Otherwise choose another "
                    "DATA.PATH_TO_DATA_DIR",
                    *(name, root, shorten(sorted(others))),
                )
        elif not wanted <= present:
            logger.info("downloading %s to %s (DATA.DOWNLOAD)", name, root)
            download(name, root, cfg.DATA.DOWNLOAD_URLS)


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    lock = FileLock(root / ".download.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info("%s: another process is fetching the dataset; waiting for it", root)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(url: str, root: Path) -> Path:
    """The archive on this disk, the same as when it came."""
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(urldefrag(url).url).path).name)) or "archive"
    path = root / ARCHIVES_FOLDER / name
    fetch(
        url,
        path,
        f"The address may have moved, or the server's certificate have run out: download it by hand, e.g. with a "
        f"browser, to {path}, and start again",
        "choose a folder on another disk",
    )
    note, found = path.with_name(f"{name}.sha256"), digest(path)
    if not note.exists():
        write_text_atomically(note, f"{found}  {name}\n")  # as `sha256sum -c` reads it
    elif (before := note.read_text().split()[0]) != found:
        raise DataError(
            f"{path} has SHA-256 {found}, but had {before} when it was fetched: remove it and {note.name}, and start "
            "again to fetch it anew"
        )
    return path
