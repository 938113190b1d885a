"""The base of every error that a user can mend."""


class UserError(Exception):
    """A problem with the input, not with the program.

    The text is the whole message: it names the file or key, what was found, what was expected and what to do next.
    The command lines in `tools/` print it without a traceback and exit with status 2.
    """
