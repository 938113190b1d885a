"""Files that players show, but that are read here in another form only: what they are, and how to convert them."""

import os

_HEAD = 4096  # bytes in which the signatures lie


def describe_format(path: str | os.PathLike[str]) -> str:
    """What the file is and how to convert it, empty where it is none of these formats or cannot be read.

    The formats are HLS and DASH playlists, PNG and APNG, WebP, and JPEG.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    name = os.path.basename(path)
    if text.startswith(b"#EXTM3U"):
        return f"an HLS playlist, which only names the files of a video: join them, `ffmpeg -i {name} -c copy clip.mp4`"
    if text.startswith(b"<") and b"<MPD" in text:
        return f"a DASH playlist, which only names the files of a video: join them, `ffmpeg -i {name} -c copy clip.mp4`"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        if b"acTL" in head.partition(b"IDAT")[0]:  # APNG: an animation control chunk before the first image
            return f"an animated PNG (APNG): convert it with `ffmpeg -i {name} clip.mp4`"
        return "a PNG image: a clip of images is a folder of them; name the folder"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if head[12:16] == b"VP8X" and head[20] & 2:
            return f"an animated WebP: write its frames to a folder with `magick {name} -coalesce DIR/%04d.png`"
        return "a WebP image: a clip of images is a folder of .jpg or .png files; convert it and name the folder"
    if head.startswith(b"\xff\xd8\xff"):
        return "a JPEG image: a clip of images is a folder of them; name the folder"
    return ""
