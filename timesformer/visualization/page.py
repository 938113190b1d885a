"""Renders self-contained HTML pages from the templates in `templates/`."""

from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

import timesformer

_DEFAULTS = {"subtitle": "", "lead": "", "notes": (), "runs_shown": ()}


def render_page(template: str, **page: Any) -> str:
    """Renders a page. Styles and scripts are part of it, and text is escaped.

    Args:
        template: file in `templates/` that extends base.html, which shows the values below; parts.html has macros for
            tables, charts and tiles.
        page: `title`; optionally `subtitle`, `lead` (a sentence under it) and `notes` (warnings); and what the template
            itself needs, as `page.NAME`. Sections with an id become the navigation.

    Returns:
        The HTML text. Bytes of file names that are not UTF-8 are shown as escapes.

    Raises:
        jinja2.UndefinedError: if a value that the template needs is missing.
    """
    environment = _environment()
    text = environment.get_template(template).render(
        page={**_DEFAULTS, **page},
        version=timesformer.__version__,
        style=Markup(_read_template("style.css")),
        script=Markup(_read_template("page.js")),
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


def _read_template(name: str) -> str:
    environment = _environment()
    return environment.loader.get_source(environment, name)[0]
