"""Downloads HMDB51, HMDB_simp and UCF101, and unpacks them into the layout that training reads."""

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from filelock import FileLock
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.datasets.records import SPLITS, DataError
from timesformer.datasets.sources.clip_files import list_classes, list_clips
from timesformer.datasets.sources.official_splits import LISTS_FOLDERS
from timesformer.errors import shorten
from timesformer.fetch import digest, fetch
from timesformer.preparation.archive_urls import ARCHIVE_URLS
from timesformer.preparation.split import split_dataset
from timesformer.preparation.unpack import unpack
from timesformer.runtime.resource_limits import available_cores

logger = logging.getLogger(__name__)

ARCHIVES_FOLDER = "archives"
_FOLDERS = {
    "hmdb51": ("hmdb51_org", LISTS_FOLDERS["hmdb51"]),
    "hmdb_simp": (".HMDB_simp",),
    "ucf101": ("UCF-101", LISTS_FOLDERS["ucf101"]),
}
"""Folders in the dataset's folder that its archives are unpacked to.

From a hidden folder, class folders move to the dataset's folder itself, where archives are hidden, too.
"""


def download(name: str, root: Path, urls: Sequence[str] = ("", "")) -> None:
    """Download and unpack the parts of the dataset `name` that `root` lacks; an interrupted call continues.

    Archives are kept in `root`/archives (HMDB_simp: `root`/.archives). `urls` (videos, lists) replace ARCHIVE_URLS
    unless empty. One process downloads at a time. Raises DownloadError, and DataError for an archive that cannot be
    unpacked or has changed.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            archives = zip(ARCHIVE_URLS[name], _FOLDERS[name], urls, strict=False)
            # The small archive of lists first, to find connection problems early.
            for default, folder_name, url in reversed([*archives]):
                folder, is_hidden = root / folder_name, folder_name.startswith(".")
                if not (folder.is_dir() or (is_hidden and list_classes(root))):
                    unpack(_fetch(url or default, root / f"{'.' * is_hidden}{ARCHIVES_FOLDER}"), folder)
                if is_hidden and folder.is_dir():
                    for path in list_classes(folder):
                        path.replace(root / path.name)
                    shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"{root} cannot be written: {error.strerror or error}; choose another folder") from error


def download_if_asked(cfg: CfgNode) -> None:
    """Download the datasets that `cfg` trains and tests on to DATA.PATH_TO_DATA_DIR, if DATA.DOWNLOAD is set.

    A folder that has other folders is left alone, with a warning; for HMDB_simp, whose archive has only class folders,
    these are folders without clips. HMDB_simp is also split, unless it has a split or DATA.SPLITS_DIR is set. All
    processes of a run may call this. Raises DownloadError and DataError as `download`.
    """
    if not cfg.DATA.DOWNLOAD:
        return
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    for name in sorted({cfg.TRAIN.DATASET, cfg.TEST.DATASET} & ARCHIVE_URLS.keys()):
        wanted = set(_FOLDERS[name])
        present = {path.name for path in list_classes(root)} if root.is_dir() else set()
        if name != "hmdb_simp" and wanted <= present:
            continue
        if others := _other_folders(name, root, wanted, present):
            logger.warning("%s is not downloaded: %s already has %s", name, root, shorten(sorted(others)))
            continue
        if name != "hmdb_simp":
            logger.info("downloading %s to %s (DATA.DOWNLOAD)", name, root)
        download(name, root, cfg.DATA.DOWNLOAD_URLS)
        if name == "hmdb_simp" and not cfg.DATA.SPLITS_DIR:
            _split_once(root)


def _other_folders(name: str, root: Path, wanted: set[str], present: set[str]) -> set[str]:
    """The folders `present` that are not of the dataset. Folders of HMDB_simp are classes with clips, or splits."""
    if name != "hmdb_simp":
        return present - wanted - {ARCHIVES_FOLDER}
    is_own = any((root / folder).is_dir() for folder in (*wanted, *SPLITS))
    return set() if not present or is_own or any(list_clips(root).values()) else present


def _split_once(root: Path) -> None:
    """The split that `tools/prepare.py hmdb_simp` makes by default, unless there is one."""
    with FileLock(root / ".download.lock"):
        if not any((root / f"{split}.csv").is_file() or (root / split).is_dir() for split in SPLITS):
            split_dataset(root, root, seed=42, test=0.1, val=0.2, workers=available_cores())


def _fetch(url: str, folder: Path) -> Path:
    """The archive of a URL in `folder`, with the same SHA-256 as when it was downloaded."""
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(urldefrag(url).url).path).name)) or "archive"
    path = folder / name
    by_hand = f"The URL may have moved: download the archive by hand to {path}, and start again"
    fetch(url, path, by_hand, "choose a folder on another disk")
    checksum, found = path.with_name(f"{name}.sha256"), digest(path)
    if not checksum.exists():
        write_text_atomically(checksum, f"{found}  {name}\n")  # the format of sha256sum
    elif (expected := checksum.read_text().split()[0]) != found:
        raise DataError(f"{path} has SHA-256 {found}, expected {expected}: remove it and {checksum.name}")
    return path
