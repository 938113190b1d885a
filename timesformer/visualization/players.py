"""Which video files browsers play."""

import os

from timesformer.datasets.decoding.packet_source import DECODE_ERRORS, open_container

_CODECS = {
    "mov": ("h264", "av1", "vp9"),
    "matroska": ("vp8", "vp9", "av1"),  # WebM; browsers play other Matroska files only sometimes
}
_PIXELS = ("yuv420p", "yuvj420p")


def is_playable(path: str | os.PathLike[str]) -> bool:
    """Whether current browsers play a video file, by its container, codec and pixel format."""
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            context = stream.codec_context if stream else None
            codecs = _CODECS.get(container.format.name.partition(",")[0], ())
            if codecs == _CODECS["matroska"] and not os.fspath(path).lower().endswith(".webm"):
                return False
            return bool(context) and context.pix_fmt in _PIXELS and context.codec.canonical_name in codecs
    except DECODE_ERRORS:
        return False
