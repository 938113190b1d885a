"""Files that are whole or not there: written beside their place and moved onto it when complete."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a file open for bytes, and gives the file its name only once it is safely on disk.

    Whenever the process or the machine stops, `path` is either as it was before or complete.

    Raises:
        OSError: if the file cannot be written; what was at `path` stays.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))
