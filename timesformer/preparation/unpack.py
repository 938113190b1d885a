"""Unpacking zip and rar archives: into a folder that is whole or not there, and never outside of it.

The rar format is free to read, but its compression is not: stored entries are read by the package rarfile, packed ones
by whichever of the programs in `TOOLS` is installed.
"""

import os
import shutil
import stat
import subprocess
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import rarfile

from timesformer.datasets.records import DataError, join_problems
from timesformer.datasets.sources.clip_files import is_system_name
from timesformer.progress import Progress

TOOLS: dict[str, tuple[str, ...]] = {
    "unrar": ("unrar", "x", "-y", "{archive}", "{folder}/"),
    "unar": ("unar", "-quiet", "-force-overwrite", "-no-directory", "-output-directory", "{folder}", "{archive}"),
    "bsdtar": ("bsdtar", "-x", "-f", "{archive}", "-C", "{folder}"),
    "7zz": ("7zz", "x", "-y", "-bd", "-o{folder}", "{archive}"),
    "7z": ("7z", "x", "-y", "-bd", "-o{folder}", "{archive}"),
}
"""Programs that unpack rar archives, with their arguments, in the order in which they are tried."""
_INSTALL = (
    "install one that can, e.g. `apt-get install unrar` or `unar`, `dnf install unar`, `brew install unar`, or "
    "`conda install -c conda-forge libarchive` (bsdtar); or unpack it by hand to {folder}, and start again"
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """A file in an archive: its name there, and size in bytes when unpacked."""

    name: str
    size: int
    packed: bool = False


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .rar archive to `folder`, unless that is there; a rar of rars is unpacked to its end.

    A folder that is alone in an archive gives way to `folder`: a/x.avi becomes folder/x.avi. Each archive within the
    archive becomes a folder of its name. An interrupted unpacking begins anew the next time; until it is through,
    all lies in a hidden folder beside `folder`.

    Raises:
        DataError: if the archive is damaged or of another kind, has names that lead out of the folder, links or a
            password, or if no program is installed that can unpack it; nothing is left behind.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _unpack(archive, partial, folder)
        top = _below_outer_folder(partial)
        for path in sorted(path for path in top.rglob("*.rar") if not is_system_name(path.name)):
            unpack(path, path.with_suffix(""))
            path.unlink()
        top.replace(folder)
    except OSError as error:
        raise DataError(
            f"{archive} could not be unpacked to {folder}: {error.strerror or error}; make room there, or choose "
            "another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(archive: Path, folder: Path, meant: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                entries = [_zip_entry(info) for info in opened.infolist() if not info.is_dir()]
                _copy_all(opened, _safe(archive, entries), archive, folder)
        elif rarfile.is_rarfile(archive):
            with rarfile.RarFile(archive) as opened:
                if opened.needs_password():
                    raise DataError(f"{archive} wants a password: unpack it by hand to {meant}, and start again")
                entries = [_rar_entry(info) for info in opened.infolist() if not info.is_dir()]
                if any(entry.packed for entry in _safe(archive, entries)):
                    _run_tools(archive, entries, folder, meant)
                else:
                    _copy_all(opened, entries, archive, folder)
        else:
            raise DataError(f"{archive} is neither a zip nor a rar archive: remove it, and download it again")
    except (zipfile.BadZipFile, rarfile.Error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged ({error}): remove it, and download it again") from error


def _zip_entry(info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return _Entry(info.filename, -1 if kind not in (0, stat.S_IFREG) else info.file_size)


def _rar_entry(info: rarfile.RarInfo) -> _Entry:
    elsewhere = getattr(info, "file_redir", None)
    is_copy = elsewhere and elsewhere[0] == rarfile.RAR5_XREDIR_FILE_COPY  # a file that was packed once for several
    is_link = info.is_symlink() or (elsewhere and not is_copy)
    return _Entry(info.filename, -1 if is_link else info.file_size, is_copy or info.compress_type != rarfile.RAR_M0)


def _safe(archive: Path, entries: Sequence[_Entry]) -> Sequence[_Entry]:
    problems = [f"{entry.name}: a link" for entry in entries if entry.size < 0]
    for entry in entries:
        path = PurePosixPath(entry.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
            problems.append(f"{entry.name}: leads out of the folder")
    if problems:
        remedy = "expected plain files below one folder: this is not the dataset's archive; it was not unpacked"
        raise join_problems(str(archive), problems, remedy)
    return entries


def _copy_all(
    opened: zipfile.ZipFile | rarfile.RarFile, entries: Sequence[_Entry], archive: Path, folder: Path
) -> None:
    with Progress(f"unpacking {archive.name}", sum(entry.size for entry in entries), "B") as progress:
        for entry in entries:
            target = folder / entry.name.replace("\\", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry.name) as source, target.open("wb") as file:
                _copy(source, file, progress)


def _copy(source: IO[bytes], target: IO[bytes], progress: Progress) -> None:
    while chunk := source.read(_CHUNK):
        target.write(chunk)
        progress.advance(len(chunk))


def _run_tools(archive: Path, entries: Sequence[_Entry], folder: Path, meant: Path) -> None:
    """Unpacks with the first program that makes all entries; each one knows some archives that another does not."""
    said = []
    for name, command in TOOLS.items():
        if shutil.which(name) is None:
            continue
        shutil.rmtree(folder)
        folder.mkdir()
        problem = _run([part.format(archive=archive, folder=folder) for part in command], archive, entries, folder)
        if not problem:
            return
        said.append(f"{name}: {problem}")
    if not said:
        raise DataError(
            f"{archive} is packed, and none of the programs that unpack it is installed ({', '.join(TOOLS)}): "
            + _INSTALL.format(folder=meant)
        )
    remedy = f"remove the archive and download it again in case it is damaged; or {_INSTALL.format(folder=meant)}"
    raise join_problems(f"{archive} could not be unpacked", said, remedy)


def _run(command: Sequence[str], archive: Path, entries: Sequence[_Entry], folder: Path) -> str:
    """What went wrong; "" if all entries are there with their sizes."""
    total, shown = sum(entry.size for entry in entries), 0
    log = folder.with_name(f"{folder.name}.log")
    try:
        with log.open("w+b") as file, Progress(f"unpacking {archive.name}", total, "B") as progress:
            environment = os.environ | {"LC_ALL": "C.UTF-8"}  # some refuse names that the locale cannot spell
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            try:
                pause = 0.02  # an archive of a class takes a moment, that of a dataset minutes
                while process.poll() is None:
                    time.sleep(pause)
                    pause = min(2 * pause, 1)
                    there = min(total, _bytes_in(folder))
                    progress.advance(there - shown)
                    shown = there
            finally:
                process.kill()
                process.wait()
            progress.advance(min(total, _bytes_in(folder)) - shown)
        missing = [entry.name for entry in entries if not _is_there(folder / entry.name.replace("\\", "/"), entry)]
        if process.returncode or missing:
            lines = [line.strip() for line in log.read_bytes().decode(errors="replace").split("\n")]
            errors = [line for line in lines if "error" in line.lower()]
            told = (errors[:1] or [line for line in lines if line][-1:] or ["nothing said"])[0][:200]
            problem = f"stopped with status {process.returncode}" if process.returncode else "left out " + missing[0]
            return f"{problem} ({told})"
    finally:
        log.unlink(missing_ok=True)
    return ""


def _bytes_in(folder: Path) -> int:
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a program may give a file another name when it is whole
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def _is_there(path: Path, entry: _Entry) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == entry.size


def _below_outer_folder(folder: Path) -> Path:
    inside = [path for path in folder.iterdir() if not is_system_name(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
