"""docs/options.md, made from the table of options: `python -m timesformer.config.options_page > docs/options.md`."""

from timesformer.config.options import EFFECTS, OPTIONS, Option
from timesformer.config.retired import RENAMED, RETIRED

_INTRODUCTION = """\
<!-- Made by `python -m timesformer.config.options_page`; do not edit. -->
# Options

Each option is a key with a default. A YAML file (`--cfg FILE`) and `KEY VALUE` pairs at the end of a command line
change it. **New** options do not exist in facebookresearch/TimeSformer; the others have its names. An option with
"Only with" is an error if it is set but not read.

What an option affects decides what happens when a run resumes or a test is repeated with another value:
"""


def options_page() -> str:
    """The text of docs/options.md."""
    lines = [_INTRODUCTION, "| affects | meaning |", "|---|---|", *(f"| {k} | {v} |" for k, v in EFFECTS.items())]
    section = None
    for option in OPTIONS.values():
        if (name := option.key.partition(".")[0] if "." in option.key else "General") != section:
            section = name
            lines += [
                "",
                f"## {name}",
                "",
                "| key | default | values | affects | description |",
                "|---|---|---|---|---|",
            ]
        lines.append(_row(option))
    lines += ["", "## Earlier names", "", "These are accepted everywhere.", "", "| earlier | now |", "|---|---|"]
    lines += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    lines += ["", "## Options of the original without effect", "", "They are accepted with a warning."]
    lines += ["", "| key, or section | reason |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in RETIRED.items())]
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    default = "empty" if option.default == "" else f"`{option.default}`"
    description = f"{option.help}." + " **New.**" * option.new
    if condition := option.condition():
        description += f" Only with {condition}."
    values = option.expected()
    cells = (f"`{option.key}`", default, values, option.affects, description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(options_page(), end="")
