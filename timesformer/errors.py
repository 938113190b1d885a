"""The base of user errors, and the wording of lists in their messages."""

from collections.abc import Iterable


class UserError(Exception):
    """A problem with the input, not with the program.

    The text is the whole message: it names the file or key, what was found, what was expected and what to do next.
    The command lines in `tools/` print it without a traceback and exit with status 2.
    """


def shorten(items: Iterable[str], separator: str = ", ", limit: int = 5) -> str:
    """Join `items` for a message; past `limit` of them, say how many more there are."""
    items = list(items)
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return separator.join(items[:limit] + more)


def counted(number: float, noun: str) -> str:
    """Return the number, with commas from 1,000 on, and the noun, in the plural unless the number is 1."""
    ending = "" if number == 1 else "es" if noun.endswith(("ss", "tch")) else "s"
    return f"{number:{',' if isinstance(number, int) else ',g'}} {noun}{ending}"
