"""The video containers that are opened, by the name of FFmpeg's demuxer, and the extensions of their files."""

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
"""Which container a file is, its content decides; its extension says only that it is a clip.

FFmpeg has demuxers for more than these. Some of them must not be used on a stranger's file: they draw text as pictures,
or follow a playlist to other files and to the network.
"""

VIDEO_EXTENSIONS = tuple(extension for extensions in EXTENSIONS_OF.values() for extension in extensions)
"""Of all these files, lower case."""
