"""docs/options.md, made from the table of options: `python -m timesformer.config.options_page > docs/options.md`."""

from collections.abc import Iterable

from timesformer.config.options import EFFECTS, OPTIONS, Option
from timesformer.config.retired import RENAMED, RETIRED

_INTRODUCTION = """\
<!-- Made by `python -m timesformer.config.options_page`; do not edit. -->
# Options

A YAML file (`--cfg FILE`) and `KEY VALUE` pairs at the end of a command line set options. **New** options do not exist
in facebookresearch/TimeSformer. An option with "Only with" is an error if it is set but not read.
What happens when a run resumes or a test is repeated with another value depends on what the option affects:
"""


def options_page() -> str:
    """The text of docs/options.md."""
    lines = [_INTRODUCTION, *_table("affects | meaning", EFFECTS.items())]
    sections = dict.fromkeys(_section(option) for option in OPTIONS.values())
    for section in sections:
        rows = [_row(option) for option in OPTIONS.values() if _section(option) == section]
        lines += [f"\n## {section}\n", *_table("key | default | values | affects | description", rows)]
    renamed = [(f"`{old}`", f"`{new}`") for old, new in RENAMED.items()]
    retired = [(f"`{key}`", reason) for key, reason in RETIRED.items()]
    lines += ["\n## Earlier names\n\nThese are accepted everywhere.\n", *_table("earlier | now", renamed)]
    lines += ["\n## Options of the original without effect\n\nThey are accepted with a warning.\n"]
    return "\n".join([*lines, *_table("key, or section | reason", retired)]) + "\n"


def _section(option: Option) -> str:
    return option.key.partition(".")[0] if "." in option.key else "General"


def _row(option: Option) -> tuple[str, ...]:
    default = "empty" if option.default == "" else f"`{option.default}`"
    condition = f" Only with {option.condition()}." if option.read_by else ""
    description = f"{option.help}.{' **New.**' * option.new}{condition}"
    values = f"`{option.pattern}`" if option.pattern not in ("", ".+") else option.expected()
    return f"`{option.key}`", default, values, option.affects.replace(" ", ", "), description


def _table(header: str, rows: Iterable[Iterable[str]]) -> list[str]:
    rule, pipe = "|---" * (header.count("|") + 1) + "|", r"\|"
    return [f"| {header} |", rule, *(f"| {' | '.join(cell.replace('|', pipe) for cell in row)} |" for row in rows)]


if __name__ == "__main__":
    print(options_page(), end="")
