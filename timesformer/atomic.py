"""Files that are whole or not there: written beside their place and moved onto it when complete."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from timesformer.errors import UserError

PARTIAL_SUFFIX = ".partial"


class WriteError(UserError):
    """A file could not be written; what was there before is whole.

    Args:
        problem: which file, and why.
        elsewhere: what else would help.
    """

    def __init__(self, problem: str, elsewhere: str) -> None:
        self.problem = problem
        super().__init__(
            f"{problem}. What was written before is whole. See that there is room and that you may write there, and "
            f"start the same command again; or {elsewhere}"
        )


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
    """Writes UTF-8 text as `write_atomically` does; names of files that are no UTF-8 as they are.

    Raises:
        WriteError: if the file cannot be written; what was at `path` stays.
    """
    with report_write_errors(path):
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


@contextmanager
def report_write_errors(path: Path, elsewhere: str = "choose another OUTPUT_DIR") -> Iterator[None]:
    """Turns a failure to write `path` (a full disk, a folder that may not be written) into a WriteError.

    elsewhere: what else would help.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save covers the system's error with a RuntimeError about its own bookkeeping.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise WriteError(f"{path} could not be written: {cause.strerror or cause}", elsewhere) from error
