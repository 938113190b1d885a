"""One live run in an output folder: a second one would write over what the first one writes."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timesformer.atomic import report_write_errors
from timesformer.errors import UserError

logger = logging.getLogger(__name__)

_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Claims an output folder, which is created, for a block; of a run's processes one does so.

    The lock is the system's, and so gone with the process, however it ends. It is of the kind (POSIX) that network
    disks pass on to other machines, and that loading processes do not inherit and hold on to when theirs was killed.
    Where the disk has no locks, a warning says so.

    Raises:
        UserError: if another live run has claimed the folder, with its machine and process; or if it cannot be written.
    """
    path = output / "run.lock"
    with report_write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"another run is writing into OUTPUT_DIR {output} ({holder}): wait until it has ended, stop it, or "
                    "choose another OUTPUT_DIR"
                ) from error
            logger.warning("%s has no locks (%s): see to it that no two runs write there at once", output, error)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield
