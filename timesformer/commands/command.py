"""What all commands share: exit codes, signals, and the end of a pipe."""

import atexit
import gc
import os
import select
import signal
import sys
from collections.abc import Callable

from timesformer.errors import UserError
from timesformer.runtime.signals import exit_code, install_signal_handlers


def run_command(work: Callable[[], int], interrupted: str | Callable[[], str] = "interrupted") -> int:
    """Returns the exit code of `work()`: 2 for a UserError, 128 + N for signal N; `interrupted` is then printed.

    If the reader of stdout has ended, as in `... | head`, the command ends with the exit code of SIGPIPE.
    """
    install_signal_handlers()
    atexit.register(gc.freeze)  # or Python searches all objects for garbage when it exits: 1.3 s of CPU after PyTorch
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        message = interrupted() if callable(interrupted) else interrupted
        if message:
            print(message, file=sys.stderr)
        return exit_code(interrupt)
    except BrokenPipeError:
        if not _has_lost_reader(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again when it flushes at exit
        return 128 + signal.SIGPIPE


def _has_lost_reader(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
