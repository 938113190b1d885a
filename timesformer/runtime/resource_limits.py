"""Too little shared memory or too few open files: how to detect it, and what to tell the user."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from timesformer.errors import UserError

SHARED_MEMORY = Path("/dev/shm")

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


def is_out_of_files(error: BaseException) -> bool:
    """Whether an error, or an error that caused it, means that no further file can be opened.

    Libraries that raise no OSError, such as PyTorch, quote the system's message at least.
    """
    texts = [os.strerror(number) for number in _OUT_OF_FILES]
    return any(
        getattr(cause, "errno", None) in _OUT_OF_FILES or any(text in str(cause) for text in texts)
        for cause in _causes(error)
    )


def require_open_files(number: int) -> None:
    """Checks that this process can open `number` more files.

    Raises:
        OSError: if it cannot (EMFILE, ENFILE).
    """
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(open(os.devnull, "rb"))


def out_of_files(remedy: str) -> UserError:
    """The error for a process that cannot open as many files, sockets and pipes as it needs.

    Args:
        remedy: what to do instead of raising the limit, as a clause: "lower DATA_LOADER.NUM_WORKERS (8)".
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UserError(f"too many open files: a process may open {limit}. Raise this limit (ulimit -n), or {remedy}")


def out_of_shared_memory(problem: str, remedy: str) -> UserError:
    """The error for a DataLoader worker that cannot allocate shared memory for a batch.

    Args:
        problem: what was tried, and how it failed.
        remedy: what to do instead of enlarging it, as a clause.
    """
    size = ""
    with suppress(OSError):
        found = os.statvfs(SHARED_MEMORY)
        total, free = (blocks * found.f_frsize / 2**20 for blocks in (found.f_blocks, found.f_bavail))
        size = f" ({total:.0f} MiB, {free:.0f} MiB free)"
    return UserError(
        f"too little shared memory: {problem}. DataLoader workers pass batches through {SHARED_MEMORY}{size}: enlarge "
        f"it (docker run --shm-size=8g, or --ipc=host), or {remedy}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
