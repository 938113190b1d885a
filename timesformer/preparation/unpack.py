"""Unpacks zip and rar archives into a folder that is complete or absent, and never outside of it.

Packed rar entries need one of the programs in `TOOLS`; the package rarfile lists archives and reads stored entries.
"""

import logging
import os
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import rarfile

from timesformer.datasets.records import DataError, join_problems
from timesformer.datasets.sources.clip_files import is_system_name
from timesformer.progress import Progress

logger = logging.getLogger(__name__)

TOOLS: dict[str, tuple[str, ...]] = {
    "unrar": ("unrar", "x", "-y", "{archive}", "{folder}/"),
    "unar": ("unar", "-quiet", "-force-overwrite", "-no-directory", "-output-directory", "{folder}", "{archive}"),
    "bsdtar": ("bsdtar", "-x", "-f", "{archive}", "-C", "{folder}"),
    "7zz": ("7zz", "x", "-y", "-bd", "-o{folder}", "{archive}"),
    "7z": ("7z", "x", "-y", "-bd", "-o{folder}", "{archive}"),
}
"""Programs that unpack rar archives, with their arguments, in the order in which they are tried."""
_INSTALL = "install one, e.g. `apt-get install unrar` or `unar`, or unpack the archive by hand, and start again"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .rar archive to `folder`, unless that exists; rars in a rar are unpacked to folders too.

    A single outer folder in the archive is left out: a/x.avi becomes folder/x.avi. An interrupted call starts again.
    Raises DataError, and leaves nothing behind, if the archive is damaged or of another kind, has links or names that
    lead out of the folder, or needs a program that is not installed.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _unpack(archive, partial)
        inside = [path for path in partial.iterdir() if not is_system_name(path.name)]
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else partial
        for path in sorted(path for path in top.rglob("*.rar") if not is_system_name(path.name)):
            unpack(path, path.with_suffix(""))
            path.unlink()
        top.replace(folder)
    except OSError as error:
        raise DataError(f"{archive} could not be unpacked to {folder}: {error.strerror or error}; make room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    if not (is_zip := zipfile.is_zipfile(archive)) and not rarfile.is_rarfile(archive):
        raise DataError(f"{archive} is neither a zip nor a rar archive: remove it, and download it again")
    try:
        with zipfile.ZipFile(archive) if is_zip else rarfile.RarFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            sizes = {_safe_name(archive, entry): entry.file_size for entry in entries}
            if not is_zip and any(entry.compress_type != rarfile.RAR_M0 for entry in entries):
                _run_tools(archive, sizes, folder)
                return
            with Progress(f"unpacking {archive.name}", len(entries), "file") as progress:
                for name, entry in zip(sizes, entries, strict=True):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(entry) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
                    progress.advance()
    except (zipfile.BadZipFile, zlib.error, rarfile.Error, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{archive} is damaged ({error}): remove it, and download it again") from error


def _safe_name(archive: Path, entry: zipfile.ZipInfo | rarfile.RarInfo) -> str:
    name = entry.filename.replace("\\", "/")
    path = PurePosixPath(name)
    is_link = False  # zipfile writes links as ordinary files
    if isinstance(entry, rarfile.RarInfo):
        target = getattr(entry, "file_redir", None)  # of a link, or of a file that is packed once for several names
        is_link = entry.is_symlink() or bool(target and target[0] != rarfile.RAR5_XREDIR_FILE_COPY)
    if is_link or path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise DataError(f"{archive}: {entry.filename!r} is a link or leads out of the folder; it was not unpacked")
    return name


def _run_tools(archive: Path, sizes: dict[str, int], folder: Path) -> None:
    """Unpack with the first program that writes all entries; each one fails on some archives."""
    problems = []
    for name, command in TOOLS.items():
        if shutil.which(name) is None:
            continue
        logger.info("unpacking %s with %s", archive, name)
        shutil.rmtree(folder)
        folder.mkdir()
        done = subprocess.run(
            [part.format(archive=archive, folder=folder) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C.UTF-8"},  # some refuse names that the locale cannot spell
        )
        paths = [(folder / entry, size) for entry, size in sizes.items()]
        complete = [path.is_file() and not path.is_symlink() and path.stat().st_size == size for path, size in paths]
        missing = complete.count(False)
        if not done.returncode and not missing:
            return
        said = done.stdout.decode(errors="replace").strip().rpartition("\n")[2][:200]
        problems.append(f"{name}: exit status {done.returncode}, {missing} files missing ({said})")
    if not problems:
        raise DataError(f"{archive} needs one of the programs {', '.join(TOOLS)}: {_INSTALL}")
    remedy = f"remove the archive and download it again in case it is damaged; or {_INSTALL}"
    raise join_problems(f"{archive} could not be unpacked", problems, remedy)
