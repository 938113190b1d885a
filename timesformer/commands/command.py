"""What all commands share: exit codes, signals, and the end of a pipe."""

import os
import signal
import sys
from collections.abc import Callable

from timesformer.errors import UserError
from timesformer.runtime.signals import exit_code, install_signal_handlers


def run_command(work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Returns the exit code of `work()`: 2 for a UserError, 128 + N for signal N; `interrupted` is then printed.

    If the reader of stdout has ended, as in `... | head`, the command ends with the exit code of SIGPIPE.
    """
    install_signal_handlers()
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        return exit_code(interrupt)
    except BrokenPipeError:
        if not _is_stdout_broken():
            raise
        return 128 + signal.SIGPIPE


def _is_stdout_broken() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # and Python would fail again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
