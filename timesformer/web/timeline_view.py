"""The part of the page about a long video: a chart of its segments, a player that jumps to them, and a table."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import streamlit as st

from timesformer.localization.segments import THRESHOLD, Segment, find_segments, with_defaults
from timesformer.localization.timeline import Timeline
from timesformer.localization.timeline_files import timeline_text
from timesformer.localization.windows import WindowScores
from timesformer.visualization.charts import MUTED, SERIES
from timesformer.visualization.pages.class_colors import class_colors
from timesformer.visualization.video_overlay import format_clock
from timesformer.web.service import Service
from timesformer.web.timeline import ScoredVideo

_CLOCK = "floor(datum.value / 60) + ':' + format(datum.value % 60, '02.0f')"  # of the axis, in Vega's language
_MOMENT = "moment"  # of the session: the video and the seconds at which its player starts
_POINTS = 60  # of a curve; more would fill the chart
_PLAYER_WIDTHS, _PLAYER_HEIGHT = (240, 704), 400  # pixels


def show_timeline(
    service: Service, scored: ScoredVideo, name: str, key: str, source: Path | io.BytesIO | None, aspect: float
) -> None:
    """Shows the segments of a video and plays the chosen one.

    Args:
        name: of the video, for visitors.
        key: different for each video.
        source: what the player plays; None: browsers cannot play it.
        aspect: width of the frames divided by their height.
    """
    class_names = service.classifier.class_names
    help_text = "Probability that begins a segment."
    threshold = st.slider("Threshold", 0.05, 0.95, THRESHOLD, 0.05, help=help_text, key=f"threshold {key}")
    segments = find_segments(scored.windows, class_names, threshold=threshold)
    timeline = Timeline(name, segments, scored.windows)
    if not segments:
        st.info("No action reaches the threshold.", icon=":material/help:")
    _show_player(timeline, key, source, aspect)
    with st.container(key="chart"):
        _show_charts(timeline, class_names, key)
    with st.container(key="pictures"):
        images, captions = [image for _, image in scored.pictures], [format_clock(time) for time, _ in scored.pictures]
        st.image(images, captions, width=80)
    _show_table(timeline, key)
    if source is not None and segments:
        st.caption("Choose a segment in the chart or in the table to play it.")
    st.caption(_describe(scored))
    header = {"checkpoint": Path(service.classifier.path).name, "class_names": list(class_names)}
    header |= {"window": scored.window, "stride": scored.stride, **scored.sampling}
    header |= with_defaults(threshold=threshold)
    with st.container(horizontal=True):
        for suffix, mime in ((".csv", "text/csv"), (".json", "application/json"), (".vtt", "text/vtt")):
            content = timeline_text(suffix, [timeline], header)
            label = f"Download {suffix[1:].upper()}"
            st.download_button(label, content, f"{Path(name).stem}{suffix}", mime, on_click="ignore")


def _show_player(timeline: Timeline, key: str, source: Path | io.BytesIO | None, aspect: float) -> None:
    if source is None:
        st.caption("Browsers cannot play this file. Convert it to MP4 (H.264) to play its segments here.")
        return
    video, start = st.session_state.get(_MOMENT, ("", 0.0))
    chosen = video == key
    subtitles = {"actions": timeline_text(".vtt", [timeline], {})} if timeline.segments else None
    width = max(_PLAYER_WIDTHS[0], min(round(_PLAYER_HEIGHT * aspect), _PLAYER_WIDTHS[1]))
    with st.container(key="player"):
        st.video(
            source,
            start_time=start if chosen else 0,
            subtitles=subtitles,
            autoplay=chosen,
            muted=True,
            width=width,
        )


def _show_charts(timeline: Timeline, class_names: tuple[str, ...], key: str) -> None:
    shown = class_colors(timeline.windows, timeline.segments, class_names)
    found = dict.fromkeys([*shown, *(segment.class_name for segment in timeline.segments)])
    colors = alt.Scale(domain=list(found), range=[SERIES[shown[name]] if name in shown else MUTED for name in found])
    color = alt.Color("class:N", scale=colors, legend=None)
    seconds = alt.Scale(domain=[0, timeline.duration], nice=False)
    axis = alt.X("start:Q", scale=seconds, title=None, axis=alt.Axis(labelExpr=_CLOCK, grid=False))
    rows = [_row(segment) for segment in timeline.segments]
    if rows:
        names = list(dict.fromkeys(row["class"] for row in rows))
        bars = (
            alt.Chart(alt.Data(values=rows))
            .mark_bar(cornerRadius=3, cursor="pointer")
            .encode(
                x=axis,
                x2="end:Q",
                y=alt.Y("class:N", sort=names, title=None),
                color=color,
                tooltip=[alt.Tooltip(f"{name}:N") for name in ("class", "from", "to", "probability")],
            )
            .add_params(alt.selection_point(name=_MOMENT, fields=["start"]))
            .properties(height=max(60, 28 * len(names) + 30))
        )
        chart = f"segments {key}"
        st.altair_chart(bars, key=chart, on_select=lambda: _choose(chart, key), selection_mode=_MOMENT)
    points = [
        {"start": time, "class": name, "probability": float(probabilities[number])}
        for number, name in enumerate(class_names)
        if name in shown
        for time, probabilities in _curve(timeline.windows)
    ]
    height = alt.Y("probability:Q", scale=alt.Scale(domain=[0, 1]), title=None, axis=alt.Axis(format="%", tickCount=3))
    color = alt.Color("class:N", scale=colors, title=None, legend=alt.Legend(orient="bottom", values=list(shown)))
    lines = alt.Chart(alt.Data(values=points)).mark_line(interpolate="linear").encode(x=axis, y=height, color=color)
    st.altair_chart(lines.properties(height=180), key=f"curves {key}")


def _curve(windows: Sequence[WindowScores]) -> list[tuple[float, np.ndarray]]:
    """Times and probabilities of up to `_POINTS` points: means of windows that follow each other."""
    times = np.array([(window.start + window.end) / 2 for window in windows])
    probabilities = np.stack([window.probabilities for window in windows])
    size = -(-len(windows) // _POINTS)
    groups = (slice(first, first + size) for first in range(0, len(windows), size))
    return [(float(times[group].mean()), probabilities[group].mean(axis=0)) for group in groups]


def _show_table(timeline: Timeline, key: str) -> None:
    if not timeline.segments:
        return
    table = f"table {key}"
    rows = [
        {name: value for name, value in _row(segment).items() if name not in ("start", "end")}
        for segment in timeline.segments
    ]
    starts = [segment.start for segment in timeline.segments]
    st.dataframe(
        rows,
        key=table,
        on_select=lambda: _choose(table, key, starts),
        selection_mode="single-row",
        column_order=("class", "from", "to", "probability"),
        hide_index=True,
    )


def _choose(widget: str, key: str, starts: list[float] | None = None) -> None:
    """Lets the player start where the segment that was chosen in a chart or table starts."""
    selection: Any = st.session_state[widget].selection
    if starts is None:
        found = [point["start"] for point in selection[_MOMENT]]
    else:
        found = [starts[row] for row in selection.rows if row < len(starts)]
    if found:
        st.session_state[_MOMENT] = (key, found[0])


def _row(segment: Segment) -> dict[str, Any]:
    return {
        "class": segment.class_name,
        "from": format_clock(segment.start),
        "to": format_clock(segment.end),
        "probability": f"{100 * segment.probability:.0f} %",
        "start": segment.start,
        "end": segment.end,
    }


def _describe(scored: ScoredVideo) -> str:
    text = f"{len(scored.windows)} windows of {scored.window:.2g} s, one every {scored.stride:.2g} s."
    if len(scored.windows) < scored.planned:
        return f"{text} There was no time for all {scored.planned}, so segments begin and end less exactly."
    if scored.stride > scored.window:
        return f"{text} The video is long, so that some of it is between windows: short actions may be missing."
    if scored.is_spread:
        return f"{text} The video is long, so that they overlap by less than half."
    return text
