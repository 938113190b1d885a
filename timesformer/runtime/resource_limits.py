"""Errors for too many open files and too little shared memory."""

import errno
import os
import resource
import shutil
from contextlib import ExitStack
from pathlib import Path

from timesformer.errors import UserError

SHARED_MEMORY = Path("/dev/shm")

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


def is_out_of_files(error: BaseException | None) -> bool:
    """Returns whether an error, or one of its causes, says that no more files can be opened."""
    texts = [os.strerror(number) for number in _OUT_OF_FILES]  # PyTorch's errors have no errno, but quote the message
    while error is not None:
        if getattr(error, "errno", None) in _OUT_OF_FILES or any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def available_cores() -> int:
    """Returns the number of cores that this process may run on, which job schedulers limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_open_files(number: int) -> None:
    """Raises OSError if this process cannot open `number` more files."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(open(os.devnull, "rb"))


def out_of_files(remedy: str) -> UserError:
    """Returns the error for too many open files; `remedy` is another solution, "lower DATA_LOADER.NUM_WORKERS"."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UserError(f"too many open files: the limit is {limit}. Raise it (ulimit -n), or {remedy}")


def out_of_shared_memory(problem: str, remedy: str) -> UserError:
    """Returns the error for a DataLoader worker that cannot allocate shared memory; `remedy` is another solution."""
    size = f" ({shutil.disk_usage(SHARED_MEMORY).total >> 20} MiB)" if SHARED_MEMORY.exists() else ""
    return UserError(
        f"too little shared memory: {problem}. DataLoader workers pass batches through {SHARED_MEMORY}{size}: enlarge "
        f"it (docker run --shm-size=8g, or --ipc=host), or {remedy}"
    )
