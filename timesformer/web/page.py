"""The page from top to bottom. Streamlit runs `show` again on every click."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image
from streamlit import config

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.errors import UserError
from timesformer.web.options import Options, parse
from timesformer.web.service import Answer, Service, file_states
from timesformer.web.uploads import find_examples, format_size, format_time, private_file

logger = logging.getLogger(__name__)

TITLE = "What happens in this video?"
UPLOAD, EXAMPLE = "Upload a video", "Pick an example"
LOW_CONFIDENCE = 0.5
METHODS = {"rollout": "all blocks (rollout)", "cls": "last block (class token)"}
_FEW_CLASSES = 50  # their names are shown at once


@dataclass(frozen=True)
class Video:
    """The chosen video: the content of an upload, or the path of an example."""

    key: str
    name: str
    size: int  # bytes
    content: Any = None
    path: Path | None = None


def show(arguments: Sequence[str]) -> None:
    """Draws the page; `arguments` is the command line of tools/app.py."""
    icon = Image.new("RGB", (64, 64), "#7464e8")  # browsers would fetch an emoji from the internet
    st.set_page_config(page_title=TITLE, page_icon=icon)
    st.title(TITLE, anchor=False)
    try:
        _show_page(parse(arguments))
    except UserError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
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
            key = (video.key, sampler, views, state)
            answer = _cached("answer", key, lambda: _answer(service, options, video, sampler, views))
        except UserError as error:
            st.error(escape_markdown(f"{video.name}: {error}"), icon=":material/error:")
        else:
            _show_answer(service, answer, video, key)
    with st.expander(f"The {len(names):,} actions", expanded=video is None and len(names) <= _FEW_CLASSES):
        st.markdown(" · ".join(map(escape_markdown, names)))


@st.cache_resource(show_spinner="Loading the model …", max_entries=1)
def _load_service(options: Options, state: tuple[object, ...]) -> Service:
    return Service.load(options)  # again when the files change, which changes `state`


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
    label = f"A short video of one action, up to {limits.megabytes} MB and {format_time(limits.seconds)}"
    upload = st.file_uploader(label, type=list(VIDEO_EXTENSIONS))
    return upload and Video(upload.file_id, upload.name, upload.size, content=upload.getbuffer())


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


def _answer(service: Service, options: Options, video: Video, sampler: str, views: int) -> Answer:
    with st.spinner("Reading the video and computing the prediction …"):
        if video.path is not None:
            return service.answer(video.path, sampler, views)
        options.limits.check_size(video.size)
        with private_file(video.content) as path:
            return service.answer(path, sampler, views)


def _show_answer(service: Service, answer: Answer, video: Video, key: tuple[object, ...]) -> None:
    name, probability = answer.top[0]
    st.header(escape_markdown(name), anchor=False)
    known = f"It knows {len(service.classifier.class_names):,} actions and always predicts one of them"
    if probability < LOW_CONFIDENCE:
        st.warning(f"The model is not sure. {known}, even if the video shows something else.", icon=":material/help:")
    with st.container(key="top"):
        for name, p in answer.top:
            st.progress(min(p, 1.0), text=f"{escape_markdown(name)} &ensp; **{escape_markdown(format_percent(p))}**")
    if probability >= LOW_CONFIDENCE:
        st.caption(f"This is the model's own confidence. {known}, so it may be confident and wrong.")
    _show_frames(service, answer, key)
    with st.expander("Technical details"), st.container(key="details"):
        st.markdown("\n".join(f"- {name}: {escape_markdown(text)}" for name, text in _details(service, answer, video)))


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
