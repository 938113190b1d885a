"""The page as a visitor sees it, from top to bottom; Streamlit runs `show` anew on every click."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw
from streamlit import config

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.errors import UserError
from timesformer.web import markup
from timesformer.web.options import Options, parse
from timesformer.web.service import ATTENTION_METHODS, LOW_CONFIDENCE, Answer, Service, state_of
from timesformer.web.uploads import clock, find_examples, megabytes, private_file

logger = logging.getLogger(__name__)

TITLE = "What happens in this video?"
UPLOAD, EXAMPLE = "Upload a video", "Pick an example"


@dataclass(frozen=True)
class Video:
    """What the visitor chose: a name to show, and the bytes of an upload or the path of an example.

    key: tells it from every other choice of this visitor.
    """

    key: str
    name: str
    size: int
    content: Any = None
    path: Path | None = None


def show(arguments: Sequence[str]) -> None:
    """The whole page; arguments: the command line of tools/app.py."""
    st.set_page_config(page_title=TITLE, page_icon=_icon(), layout="centered")
    try:
        _page(parse(arguments))
    except UserError as error:
        st.html(markup.STYLE + markup.headline(TITLE, ""))
        st.error(markup.plain(str(error)))
    except Exception:
        logger.exception("the page failed")
        st.error("Something went wrong here, which is not your fault. Please try again, or try another video.")


def _page(options: Options) -> None:
    # One option decides: the server itself refuses what is larger, while it is still being sent.
    if config.get_option("server.maxUploadSize") != options.limits.megabytes:
        config.set_option("server.maxUploadSize", options.limits.megabytes)
    state = state_of(options)
    service = _service(options, state)
    known = len(service.classifier.class_names)
    st.html(
        markup.STYLE + markup.headline(TITLE, f"A video transformer names one of the {known:,} actions it learned.")
    )
    if service.problem:
        st.warning(markup.plain(service.problem), icon=":material/warning:")
    video = _choose_video(options)
    sampler, views = _choose_sampling(service)
    if video is not None:
        try:
            key = (video.key, sampler, views, state)
            answer = _kept("answer", key, lambda: _answer(service, options, video, sampler, views))
        except UserError as error:
            st.error(markup.plain(f"{video.name}: {error}"), icon=":material/error:")
        else:
            _show_answer(service, answer, video, key)
    with st.expander(f"The {known:,} actions this model knows", expanded=video is None):
        st.html(markup.names(sorted(service.classifier.class_names)))


@st.cache_resource(show_spinner="Loading the model …", max_entries=1)
def _service(options: Options, state: tuple[tuple[int, int] | None, ...]) -> Service:
    return Service.load(options)  # anew when the state of the files is another


def _choose_video(options: Options) -> Video | None:
    source = UPLOAD
    if options.examples is not None:
        source = st.segmented_control("Video", (UPLOAD, EXAMPLE), default=UPLOAD, label_visibility="collapsed")
    if source == EXAMPLE:
        return _choose_example(options.examples)
    limits = options.limits
    upload = st.file_uploader(
        f"A short video of one action: at most {limits.megabytes} MB and {clock(limits.seconds)}",
        type=list(VIDEO_EXTENSIONS),
    )
    if upload is None:
        return None
    return Video(upload.file_id, upload.name, upload.size, content=upload.getbuffer())


def _choose_example(folder: Path) -> Video | None:
    try:
        names = find_examples(folder)
    except UserError as error:
        st.error(markup.plain(str(error)), icon=":material/error:")
        return None
    name = st.selectbox("An example", names, index=None, placeholder=f"Choose one of {len(names)} videos")
    if name is None:
        return None
    path = folder / name
    return Video(name, name, path.stat().st_size, path=path)


def _choose_sampling(service: Service) -> tuple[str, int]:
    with st.expander("Settings"):
        left, right = st.columns(2)
        sampler = left.selectbox(
            "Sampler",
            service.samplers,
            help="Which frames make a clip. The first choice is what the model was tested with.",
        )
        views = right.slider(
            "Views",
            1,
            service.most_views,
            service.default_views,
            help="Clips along the time of the video whose answers are averaged. More take longer.",
        )
    return sampler, views


def _kept(name: str, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
    """What `make` returned for this visitor and key before, or else returns now; of another key, nothing is kept."""
    if st.session_state.get(name, (None, None))[0] != key:
        st.session_state.pop(name, None)
        st.session_state[name] = key, make()
    return st.session_state[name][1]


def _answer(service: Service, options: Options, video: Video, sampler: str, views: int) -> Answer:
    if video.path is not None:
        return _ask(service, video.path, sampler, views)
    options.limits.check_size(video.size)
    with private_file(video.content) as path:
        return _ask(service, path, sampler, views)


def _ask(service: Service, path: Path, sampler: str, views: int) -> Answer:
    with st.spinner("Reading the video …"):
        footage, seconds = service.read(path, sampler, views)
    with st.spinner("Asking the model …"):
        return service.answer(footage, seconds, views)


def _show_answer(service: Service, answer: Answer, video: Video, key: tuple[object, ...]) -> None:
    name, probability = answer.top[0]
    st.html(markup.answer(name, probability))
    knows = f"knows {len(service.classifier.class_names):,} actions, listed below, and always names one of them"
    if probability < LOW_CONFIDENCE:
        st.warning(
            f"The model is not sure. It {knows}, even when the video shows something else.", icon=":material/help:"
        )
    st.html(markup.bars(answer.top))
    if probability >= LOW_CONFIDENCE:
        st.html(markup.note(f"The model {knows}. Shown anything else, it may be sure and wrong."))
    _show_frames(service, answer, key)
    with st.expander("Technical details"):
        st.html(markup.facts(_facts(service, answer, video)))


def _show_frames(service: Service, answer: Answer, key: tuple[object, ...]) -> None:
    clips = answer.footage.clips
    st.subheader("What the model saw", anchor=False)
    view = 0
    if len(clips) > 1:
        view = st.pills(
            "View",
            range(len(clips)),
            format_func=lambda view: f"view {view + 1}",
            default=0,
            label_visibility="collapsed",
        )
    clip = clips[view or 0]  # a click on the chosen one unchooses it
    captions = [_moment(time, number) for time, number in zip(clip.times, clip.numbers, strict=True)]
    st.html(markup.frames(clip.frames, captions, "frames"))
    if not service.has_attention or not st.toggle("Show where the model looks"):
        return
    method = st.radio(
        "Attention",
        list(ATTENTION_METHODS),
        format_func=ATTENTION_METHODS.get,
        horizontal=True,
        label_visibility="collapsed",
    )
    try:
        with st.spinner("Looking into the model …"):
            overlays = _kept("overlays", (key, clip.view, method), lambda: service.attention(clip, method))
    except UserError as error:
        st.error(markup.plain(str(error)))
        return
    st.html(markup.frames(overlays, captions, "attention"))
    st.html(
        markup.note("Bright patches had the most weight. Attention hints at the reason for an answer; it is no proof.")
    )


def _facts(service: Service, answer: Answer, video: Video) -> list[tuple[str, str]]:
    classifier, footage = service.classifier, answer.footage
    cfg, clip = classifier.cfg, footage.clips[0]
    frames, side = clip.frames.shape[0], clip.frames.shape[1]
    length = clock(footage.seconds) if footage.seconds else "unknown length"
    rate = f"{footage.fps:.4g} frames per second" if footage.fps else "unknown frame rate"
    sizes = f"{footage.width} × {footage.height} pixels, {length}, {footage.num_frames} frames, {rate}"
    return [
        ("Video", f"{video.name} ({megabytes(video.size)}): {sizes}"),
        ("Model", f"{cfg.MODEL.MODEL_NAME}, {service.num_parameters / 1e6:.4g} M parameters"),
        ("Checkpoint", Path(classifier.path).name),
        ("Input", f"{frames} frames of {side} × {side} pixels, in {len(footage.clips)} views"),
        ("Device", str(classifier.device)),
        ("Time", f"{answer.reading_seconds:.2f} s to read the video, {answer.model_seconds:.2f} s in the model"),
        *(("Note", note) for note in classifier.notes),
    ]


def _moment(time: float, number: int) -> str:
    return f"frame {number}" if math.isnan(time) else f"{time:.2f} s"


def _icon() -> Image.Image:
    """Drawn here, as a browser would fetch the picture of an emoji from elsewhere."""
    icon = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(icon)
    draw.rounded_rectangle((0, 0, 63, 63), 14, fill=markup.ACCENT)
    draw.polygon([(24, 17), (24, 47), (49, 32)], fill="white")
    return icon
