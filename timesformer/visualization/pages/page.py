"""Renders self-contained HTML pages from the templates in `templates/`."""

from typing import Any

import jinja2
from markupsafe import Markup

import timesformer

_DEFAULTS = {"subtitle": "", "lead": "", "notes": (), "runs_shown": ()}
_LOADER = jinja2.PackageLoader("timesformer.visualization", "templates")
_ENVIRONMENT = jinja2.Environment(
    loader=_LOADER, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render_page(template: str, **page: Any) -> str:
    """Renders a template, with its styles and scripts, to HTML text.

    Text is escaped; bytes of file names that are not UTF-8 are shown as escapes. Missing values are an error.

    Args:
        template: file in `templates/` that extends base.html.
        page: `title`; optionally `subtitle`, `lead` (a sentence) and `notes` (warnings); and the template's values.
    """
    style, script = (Markup(_LOADER.get_source(_ENVIRONMENT, name)[0]) for name in ("style.css", "page.js"))
    content = {"page": {**_DEFAULTS, **page}, "version": timesformer.__version__, "style": style, "script": script}
    text = _ENVIRONMENT.get_template(template).render(content)
    return text.encode("utf-8", "backslashreplace").decode()
