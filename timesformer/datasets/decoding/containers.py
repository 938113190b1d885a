"""Video containers that are opened, and formats that are not, with what to do instead."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timesformer.datasets.decoding.base import Content

EXTENSIONS_OF: dict[str, tuple[str, ...]] = {
    "avi": (".avi", ".divx"),
    "mov": (".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2", ".mj2"),
    "matroska": (".mkv",),
    "webm": (".webm",),
    "mpegts": (".ts", ".mts", ".m2ts", ".m2t"),
    "mpeg": (".mpg", ".mpeg", ".mpe", ".vob"),
    "mpegvideo": (".m1v", ".m2v", ".mpv"),
    "asf": (".wmv", ".asf"),
    "flv": (".flv",),
    "ogg": (".ogv", ".ogm"),  # .ogg is sound (RFC 5334)
    "mxf": (".mxf",),
    "nut": (".nut",),
    "ivf": (".ivf",),
    "h264": (".h264", ".264", ".avc"),
    "hevc": (".hevc", ".h265", ".265"),
    "m4v": (),  # a bare MPEG-4 stream, also called .m4v
    "mjpeg": (".mjpeg", ".mjpg"),
    "gif": (".gif",),  # last: of x.mp4 and x.gif, the second is often a preview of the first
}
"""Extensions by the name of FFmpeg's demuxer. The content of a file decides which container it is.

FFmpeg's other demuxers are not used: some follow a playlist to other files and to the network.
"""

VIDEO_EXTENSIONS = tuple(extension for extensions in EXTENSIONS_OF.values() for extension in extensions)
"""All extensions of video files, lower case."""

_IMAGE = "a clip of images is a folder of .jpg or .png files; name the folder"


def describe_format(path: str | os.PathLike[str], content: "Content | None" = None) -> str:
    """Return what a playlist, image or tar file is and what to do with it; empty for other files.

    `content` is that of a file that is not at `path`.
    """
    head = _read_head(path, content)
    text, name = head.removeprefix(b"\xef\xbb\xbf").lstrip(), os.path.basename(path)
    if text.startswith(b"#EXTM3U") or (text.startswith(b"<") and b"<MPD" in text):
        kind = "an HLS" if text.startswith(b"#EXTM3U") else "a DASH"
        return f"{kind} playlist, which only names the files of a video: join them, `ffmpeg -i {name} -c copy clip.mp4`"
    if head[257:262] == b"ustar":  # the start of POSIX.1's and GNU's magic
        return "a tar file: name one of its clips, as in x.tar/clip.mp4#bytes=512-13311 (docs/large_sets.md)"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        if b"acTL" in head.partition(b"IDAT")[0]:  # an animation control chunk before the first image
            return f"an animated PNG (APNG): convert it with `ffmpeg -i {name} clip.mp4`"
        return f"a PNG image: {_IMAGE}"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if head[12:16] == b"VP8X" and head[20] & 2:
            return f"an animated WebP: write its frames to a folder with `magick {name} -coalesce DIR/%04d.png`"
        return f"a WebP image: {_IMAGE}"
    return f"a JPEG image: {_IMAGE}" if head.startswith(b"\xff\xd8\xff") else ""


def promised_size(path: str | os.PathLike[str], content: "Content | None" = None) -> int | None:
    """Return the size in bytes that a complete Matroska or WebM file has; None if unknown, as in live recordings.

    It is the end of its Segment (RFC 8794 and RFC 9559). `content` is that of a file that is not at `path`.
    """
    head = _read_head(path, content)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        size, place = _ebml_size(head, 4)
        if size is not None and head[place + size :].startswith(b"\x18\x53\x80\x67"):
            size, place = _ebml_size(head, place + size + 4)
            return None if size is None else place + size
    return None


def _ebml_size(head: bytes, place: int) -> tuple[int | None, int]:
    """The size at a place in an EBML file, None if it is unknown, and the place after it."""
    length = 9 - int.from_bytes(head[place : place + 1], "big").bit_length()
    largest = (1 << 7 * length) - 1
    size = int.from_bytes(head[place : place + length], "big") & largest
    return None if size == largest else size, place + length


def _read_head(path: str | os.PathLike[str], content: "Content | None") -> bytes:
    """The first 4,096 bytes of a file; none if it cannot be read."""
    try:
        with content.open() if content is not None else open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""
