"""Renders self-contained HTML pages from the templates in `templates/`."""

from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

import timesformer

_DEFAULTS = {"subtitle": "", "lead": "", "notes": (), "runs_shown": ()}


def render_page(template: str, **page: Any) -> str:
    """Renders a page, with its styles and scripts. Text is escaped; values missing in a template are an error.

    Args:
        template: file in `templates/` that extends base.html; parts.html has macros for tables, charts and tiles.
        page: `title`; optionally `subtitle`, `lead` (a sentence under it) and `notes` (warnings); and what the template
            itself needs, as `page.NAME`. Sections with an id become the navigation.

    Returns:
        The HTML text. Bytes of file names that are not UTF-8 are shown as escapes.
    """
    environment = _environment()
    style, script = (Markup(environment.loader.get_source(environment, name)[0]) for name in ("style.css", "page.js"))
    text = environment.get_template(template).render(
        page={**_DEFAULTS, **page}, version=timesformer.__version__, style=style, script=script
    )
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("timesformer.visualization", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
