"""The page from top to bottom. Streamlit runs `show` again on every click."""

import html
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from PIL import Image
from streamlit import config

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.sources.clip_files import is_video_name
from timesformer.errors import UserError
from timesformer.visualization.animation import animate
from timesformer.web.options import Options, parse
from timesformer.web.reading import DecodedVideo
from timesformer.web.service import Answer, FileState, Service, file_states, load_service
from timesformer.web.timeline import score_video
from timesformer.web.timeline_view import show_timeline
from timesformer.web.uploads import RefusedError, find_examples, format_size, format_time, private_file

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TITLE = "What happens in this video?"
UPLOAD, EXAMPLE = "Upload a video", "Pick an example"
LOW_CONFIDENCE = 0.5
METHODS = {"rollout": "all blocks (rollout)", "cls": "last block (class token)"}
_MIN_TIMELINE = 3.0  # seconds from which a video can have a timeline
_FEW_CLASSES = 50  # their names are shown at once
_SMALLEST_HEADLINE, _LARGEST_HEADLINE = 1.2, 3.0  # rem, for a probability of 0 and of 1


@dataclass(frozen=True)
class Video:
    """The chosen video: an upload, or the path of an example."""

    key: str
    name: str
    size: int  # bytes
    content: io.BytesIO | None = None
    path: Path | None = None


def show(arguments: Sequence[str]) -> None:
    """Draws the page; `arguments` is the command line of `timesformer app`."""
    icon = Image.new("RGB", (64, 64), "#7464e8")  # browsers would fetch an emoji from the internet
    st.set_page_config(page_title=TITLE, page_icon=icon)
    st.title(TITLE, anchor=False)
    try:
        _show_page(parse(arguments))
    except UserError as error:  # of the owner of the page, not of the visitor
        logger.error("%s", error)
        st.error("This service is not available at the moment. Please try again later.", icon=":material/error:")
    except Exception:
        logger.exception("the page failed")
        st.error("Something went wrong on the server. Please try again, or try another video.")


def _show_page(options: Options) -> None:
    if config.get_option("server.maxUploadSize") != options.limits.megabytes:
        config.set_option("server.maxUploadSize", options.limits.megabytes)
    state = file_states(options)
    service = _load_service(options, state)
    names = sorted(service.classifier.class_names)
    st.caption(f"A video transformer recognizes one of {len(names):,} actions.")
    if service.problem:
        st.warning(escape_markdown(service.problem), icon=":material/warning:")
    video = _choose_video(options)
    sampler, views = _choose_sampling(service)
    if video is not None:
        try:
            _check_type(video)
            decoded = _cached("properties", (video.key,), lambda: _read(options, video, service.inspect))
            if _is_over_time(decoded, video, service.is_long(decoded, sampler, views)):
                key = (video.key, sampler, views, state)
                score = partial(score_video, service, video=decoded, sampler=sampler, views=views)
                scored = _cached("scores", key, lambda: _read(options, video, score))
                source, aspect = _source(decoded, video), decoded.width / decoded.height
                show_timeline(service, scored, video.name, video.key, source, aspect)
            else:
                key = (video.key, sampler, views, state)
                answer = partial(service.answer, name=video.name, sampler=sampler, views=views)
                _show_answer(service, _cached("answer", key, lambda: _read(options, video, answer)), video, key)
        except RefusedError as error:
            st.error(escape_markdown(f"{video.name}: {error}"), icon=":material/error:")
    with st.expander(f"The {len(names):,} actions", expanded=video is None and len(names) <= _FEW_CLASSES):
        st.markdown(" · ".join(map(escape_markdown, names)))


@st.cache_resource(show_spinner="Loading the model …", max_entries=1)
def _load_service(options: Options, state: tuple[FileState, ...]) -> Service:
    return load_service(options, state)  # again when the files change, which changes `state`


def _choose_video(options: Options) -> Video | None:
    source = UPLOAD
    if options.examples is not None:
        source = st.segmented_control("Video", (UPLOAD, EXAMPLE), default=UPLOAD, label_visibility="collapsed")
    if source == EXAMPLE:
        names = find_examples(options.examples)
        name = st.selectbox("An example", names, index=None, placeholder=f"Choose one of {len(names)} videos")
        path = options.examples / (name or "")
        return Video(name, name, path.stat().st_size, path=path) if name else None
    limits = options.limits
    label = f"A video, up to {limits.megabytes} MB and {format_time(limits.seconds)}"
    upload = st.file_uploader(label)  # with `type`, visitors would see an icon instead of a message
    return upload and Video(upload.file_id, upload.name, upload.size, content=upload)


def _check_type(video: Video) -> None:
    if not is_video_name(video.name):
        raise RefusedError(f"This is no video file. Upload one of {', '.join(sorted(VIDEO_EXTENSIONS))}.")


def _choose_sampling(service: Service) -> tuple[str, int]:
    with st.expander("Settings"):
        left, right = st.columns(2)
        explanation = "How frames are chosen. The first one is that of the model's test."
        sampler = left.selectbox("Sampler", service.samplers, help=explanation)
        explanation = "Clips whose predictions are averaged."
        return sampler, right.slider("Views", 1, service.max_views, service.default_views, help=explanation)


def _cached(name: str, key: tuple[object, ...], compute: Callable[[], Any]) -> Any:
    """The visitor's last value of this name if it has this key, else a new one."""
    if st.session_state.get(name, (None, None))[0] != key:
        st.session_state.pop(name, None)  # frees the memory first
        st.session_state[name] = key, compute()
    return st.session_state[name][1]


def _read(options: Options, video: Video, read: Callable[[Path], Result]) -> Result:
    """What `read` returns for the file of a video; that of an upload is removed at once."""
    with st.spinner("Reading the video and computing the prediction …"):
        if video.content is None:
            return read(video.path)
        options.limits.check_size(video.size)
        with private_file() as path:
            path.write_bytes(video.content.getbuffer())
            return read(path)


def _is_over_time(decoded: DecodedVideo, video: Video, is_long: bool) -> bool:
    """Whether the visitor wants a timeline, which long videos have unless they switch it off."""
    if not decoded.fps or decoded.seconds < _MIN_TIMELINE:
        return False
    explanation = "When which action happens, instead of one answer for the whole video."
    return st.toggle("Find actions over time", is_long, key=f"over time {video.key}", help=explanation)


def _source(decoded: DecodedVideo, video: Video) -> Path | io.BytesIO | None:
    """What a player plays; None if browsers cannot play it."""
    return (video.path or video.content) if decoded.is_playable else None


def _show_answer(service: Service, answer: Answer, video: Video, key: tuple[object, ...]) -> None:
    name, probability = answer.prediction.top[0]
    _show_headline(name, probability)
    known = f"It knows {len(service.classifier.class_names):,} actions and always predicts one of them"
    if probability < LOW_CONFIDENCE:
        st.warning(f"The model is not sure. {known}, even if the video shows something else.", icon=":material/help:")
    left, right = st.columns(2)
    with left, st.container(key="top"):
        for name, p in answer.prediction.top:
            st.progress(min(p, 1.0), text=f"{escape_markdown(name)} &ensp; **{escape_markdown(format_percent(p))}**")
    with right, st.container(key="player"):
        _show_player(answer, video, key)
    if probability >= LOW_CONFIDENCE:
        st.caption(f"This is the model's own confidence. {known}, so it may be confident and wrong.")
    _show_frames(service, answer, key)
    with st.expander("Technical details"), st.container(key="details"):
        st.markdown("\n".join(f"- {name}: {escape_markdown(text)}" for name, text in _details(service, answer, video)))
    name = f"{Path(video.name).stem}.json"
    st.download_button(
        "Download the answer (JSON)", service.to_json(answer), name, "application/json", on_click="ignore"
    )


def _show_headline(text: str, probability: float) -> None:
    """A heading that is larger for a higher probability."""
    size = _SMALLEST_HEADLINE + (_LARGEST_HEADLINE - _SMALLEST_HEADLINE) * min(probability, 1.0)
    style = f"font-size: {size:.2f}rem; line-height: 1.2; padding: 0; overflow-wrap: anywhere"
    st.html(f'<h2 class="headline" style="{style}">{html.escape(text)}</h2>')


def _show_player(answer: Answer, video: Video, key: tuple[object, ...]) -> None:
    if source := _source(answer.video, video):
        st.video(source, muted=True)
        return
    clip, span = answer.video.clips[0], answer.video.clips[0].times[-1] - answer.video.clips[0].times[0]
    rate = len(clip.frames) / span if span > 0 else 4.0  # the time may be unknown
    preview = _cached("preview", key, lambda: animate(clip.frames, ".mp4", min(max(rate, 1.0), 30.0)))
    st.video(preview, loop=True, muted=True)
    st.caption("Browsers cannot play this file. This preview shows the sampled frames.")


def _show_frames(service: Service, answer: Answer, key: tuple[object, ...]) -> None:
    clip, *others = answer.video.clips
    st.subheader("What the model saw", anchor=False)
    if others:
        views = {f"view {number}": clip for number, clip in enumerate(answer.video.clips, 1)}
        clip = views[st.pills("View", views, default="view 1", label_visibility="collapsed") or "view 1"]
    captions = [
        f"frame {number}" if math.isnan(seconds) else f"{seconds:.2f} s"
        for seconds, number in zip(clip.times, clip.numbers, strict=True)
    ]
    with st.container(key="frames"):
        st.image(list(clip.frames), captions, width=80)
    if not service.has_attention or not st.toggle("Show where the model looks"):
        return
    method = st.radio("Attention", METHODS, format_func=METHODS.get, horizontal=True, label_visibility="collapsed")
    with st.spinner("Computing the attention …"):
        overlays = _cached("overlays", (key, clip.view, method), lambda: service.attention(clip, method))
    with st.container(key="attention"):
        st.image(list(overlays), captions, width=80)
    st.caption("Bright patches had the most attention. This is a hint at the reason for a prediction, not a proof.")


def _details(service: Service, answer: Answer, video: Video) -> list[tuple[str, str]]:
    classifier, decoded = service.classifier, answer.video
    frames, height, width, _ = decoded.clips[0].frames.shape
    length = format_time(decoded.seconds) if decoded.seconds else "unknown length"
    rate = f"{decoded.fps:.4g} frames per second" if decoded.fps else "unknown frame rate"
    properties = f"{decoded.width} × {decoded.height} pixels, {length}, {decoded.num_frames} frames, {rate}"
    return [
        ("Video", f"{video.name} ({format_size(video.size)}): {properties}"),
        ("Model", f"{classifier.cfg.MODEL.MODEL_NAME}, {service.num_parameters / 1e6:.4g} M parameters"),
        ("Checkpoint", Path(classifier.path).name),
        ("Input", f"{frames} frames of {width} × {height} pixels, {len(decoded.clips)} views"),
        ("Device", str(classifier.device)),
        ("Time", f"{answer.reading_seconds:.2f} s to read the video, {answer.model_seconds:.2f} s in the model"),
        *(("Note", note) for note in classifier.notes),
    ]


def format_percent(probability: float) -> str:
    """A probability as text, never rounded to 0 or 100 %."""
    value = 100 * probability
    if 99.95 <= value < 100:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def escape_markdown(text: str) -> str:
    """Text as Streamlit shows it literally. Markdown in a file name could otherwise load images from the internet."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()<>#+-.!|~:$&" else letter for letter in text)
