"""Files that are complete or absent: written under another name, and renamed when they are complete."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from timesformer.errors import UserError, shorten

PARTIAL_SUFFIX = ".partial"
UNFINISHED_SUFFIX = ".unfinished"


class WriteError(UserError):
    """A file could not be written: `problem` names it and says why, `remedy` is another thing that would help."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        super().__init__(
            f"{problem}. Files written before are complete. Check the free space and permissions and run the same "
            f"command again; or {remedy}"
        )


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a binary file that gets the name `path` once it is on disk.

    If the process or machine stops, `path` is as before or complete. Raises OSError if the file cannot be written.
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
    if os.name == "posix":  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def unfinished_path(output: Path) -> Path:
    """Returns the path of the results so far of a command that writes `output` at its end."""
    return output.with_name(output.name + UNFINISHED_SUFFIX)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text (file names that are not UTF-8 unchanged); raises WriteError if that fails."""
    with report_write_errors(path):
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def check_absent(paths: Iterable[Path | None], remedy: str) -> None:
    """Raises UserError with the paths that exist, and `remedy`; None is skipped."""
    existing = [str(path) for path in paths if path and path.exists()]
    if existing:
        exist = "already exists" if len(existing) == 1 else "already exist"
        raise UserError(f"{shorten(existing, ' and ')} {exist}: {remedy}")


@contextmanager
def report_write_errors(path: Path, remedy: str = "choose another OUTPUT_DIR") -> Iterator[None]:
    """Turns a failure to write `path` (full disk, missing permission) into a WriteError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides the system's error behind a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise WriteError(f"{path} could not be written: {cause.strerror or cause}", remedy) from error
