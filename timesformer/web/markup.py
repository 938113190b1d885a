"""Pieces of the page as HTML: bars, frames, names of classes. Everything that is shown as text is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

ACCENT = "#7464e8"  # stands out from white and from near-black

# Colours come from the text colour of the theme, so that light and dark need nothing of their own.
STYLE = f"""<style>
.block-container {{ max-width: 62rem; padding-top: 2.5rem; padding-bottom: 4rem; }}
.tsf {{ --line: color-mix(in srgb, currentColor 14%, transparent);
       --faint: color-mix(in srgb, currentColor 7%, transparent);
       --soft: color-mix(in srgb, currentColor 68%, transparent); }}
.tsf-title {{ font-size: clamp(1.5rem, 4vw, 2.1rem); font-weight: 700; line-height: 1.2; }}
.tsf-lead, .tsf-note {{ color: var(--soft); }}
.tsf-lead {{ margin-top: .35rem; }}
.tsf-note {{ font-size: .875rem; margin-top: .4rem; }}
.tsf-answer {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .8rem; margin: .4rem 0 .9rem; }}
.tsf-answer b {{ font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.15; overflow-wrap: anywhere; }}
.tsf-answer span {{ color: var(--soft); }}
.tsf-bars {{ display: grid; grid-template-columns: minmax(4.5rem, max-content) 1fr 4rem; gap: .5rem .8rem;
            align-items: center; margin: 0; }}
.tsf-bars .name {{ overflow-wrap: anywhere; max-width: 16rem; }}
.tsf-bars .track {{ height: 1.05rem; border-radius: .525rem; background: var(--faint); overflow: hidden; }}
.tsf-bars .fill {{ height: 100%; min-width: 3px; border-radius: .525rem;
                  background: color-mix(in srgb, {ACCENT} 45%, var(--faint)); }}
.tsf-bars .first {{ font-weight: 600; }}
.tsf-bars .first.fill {{ background: {ACCENT}; }}
.tsf-bars .value {{ text-align: right; font-variant-numeric: tabular-nums; }}
.tsf-frames {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); gap: .6rem; }}
.tsf-frames figure {{ margin: 0; }}
.tsf-frames img {{ width: 100%; display: block; border-radius: .4rem; border: 1px solid var(--line); }}
.tsf-frames figcaption {{ font-size: .8rem; color: var(--soft); text-align: center; margin-top: .2rem;
                         font-variant-numeric: tabular-nums; }}
.tsf-names {{ display: flex; flex-wrap: wrap; gap: .35rem; max-height: 22rem; overflow-y: auto; }}
.tsf-names span {{ font-size: .85rem; padding: .1rem .6rem; border-radius: 1rem; background: var(--faint);
                  overflow-wrap: anywhere; }}
.tsf-facts {{ display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; font-size: .9rem; }}
.tsf-facts .what {{ color: var(--soft); }}
.tsf-facts .value {{ overflow-wrap: anywhere; }}
@media (max-width: 640px) {{ .tsf-bars {{ grid-template-columns: minmax(4rem, 34%) 1fr 3.6rem; gap: .5rem; }}
                            .tsf-frames {{ grid-template-columns: repeat(4, 1fr); gap: .4rem; }} }}
</style>"""


def headline(title: str, lead: str) -> str:
    """Title of the page and the sentence under it."""
    return (
        f'<div class="tsf"><div class="tsf-title">{escape(title)}</div><div class="tsf-lead">{escape(lead)}</div></div>'
    )


def note(text: str) -> str:
    """A remark in small soft letters."""
    return f'<div class="tsf tsf-note">{escape(text)}</div>'


def answer(name: str, probability: float) -> str:
    """The class that the model found, large, and its confidence."""
    return (
        f'<div class="tsf tsf-answer" data-testid="answer"><b>{escape(name)}</b>'
        f"<span>{percent(probability)} confidence</span></div>"
    )


def bars(top: Sequence[tuple[str, float]]) -> str:
    """Classes with their probabilities (0..1) as bars, the first of them set off."""
    rows = []
    for place, (name, probability) in enumerate(top):
        first = "" if place else " first"
        rows.append(
            f'<div class="name{first}">{escape(name)}</div>'
            f'<div class="track"><div class="fill{first}" style="width: {100 * probability:.2f}%"></div></div>'
            f'<div class="value{first}">{percent(probability)}</div>'
        )
    return f'<div class="tsf tsf-bars" data-testid="bars">{"".join(rows)}</div>'


def frames(pictures: np.ndarray, captions: Sequence[str], name: str) -> str:
    """Pictures, uint8 (T, H, W, 3) RGB, side by side with a caption under each; `name` says what they are."""
    figures = [
        f'<figure><img src="{_data_uri(picture)}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
        for picture, caption in zip(pictures, captions, strict=True)
    ]
    return f'<div class="tsf tsf-frames" data-testid="{escape(name)}">{"".join(figures)}</div>'


def names(classes: Sequence[str]) -> str:
    """All classes, each as a label."""
    return '<div class="tsf tsf-names">' + "".join(f"<span>{escape(name)}</span>" for name in classes) + "</div>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns: what, and what about it."""
    cells = (f'<div class="what">{escape(what)}</div><div class="value">{escape(value)}</div>' for what, value in rows)
    return f'<div class="tsf tsf-facts" data-testid="facts">{"".join(cells)}</div>'


def percent(probability: float) -> str:
    """A probability as people say it, never rounded up to a certainty."""
    value = 100 * probability
    if 99.95 <= value < 100:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def plain(text: str) -> str:
    """The text for Streamlit's Markdown, in which a file name could otherwise fetch a picture from elsewhere."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()<>#+-.!|~:$&" else letter for letter in text)


def _data_uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
