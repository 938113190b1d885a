"""Fingerprints of clips: a checksum, a perceptual hash and a small image of every frame, to find duplicates with."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from timesformer.atomic import write_atomically

SIZE = 32  # pixels of a thumbnail, which is square
LOW = 8  # frequencies of a thumbnail that are kept, horizontal and vertical ones
SCALE = 4  # steps of a coefficient in a gray level
STILL = 0.1  # gray levels: frames that differ less show the same picture, encoded

FRAME = np.dtype([("checksum", "<u8"), ("hash", "<u8"), ("mirrored", "<u8"), ("dct", "<i2", (LOW * LOW,))])
"""The fingerprint of a frame.

`checksum` is that of its pixels, `hash` its perceptual hash (`imagehash.phash`), `mirrored` the hash of its mirror
image, which only the frames `query_frames` have (0 elsewhere). `dct` has the 8 x 8 lowest frequencies of its gray
thumbnail of 32 x 32 pixels, orthonormal DCT-II, row by row, in quarters of a gray level.
"""


def make_fingerprint(frames: Iterable[np.ndarray]) -> np.ndarray:
    """The fingerprint, FRAME (frames,), of frames uint8 [height, width, 3]."""
    import imagehash  # late: brings scipy along, which most commands need not wait for
    from scipy.fft import dctn

    def hash_of(image: Image.Image) -> int:
        bits = imagehash.phash(image, hash_size=LOW, highfreq_factor=SIZE // LOW).hash
        return int.from_bytes(np.packbits(bits).tobytes(), "little")

    checksums, thumbnails = [], []
    for frame in frames:
        digest = hashlib.sha1(np.ascontiguousarray(frame), usedforsecurity=False).digest()
        checksums.append(int.from_bytes(digest[:8], "little"))
        thumbnails.append(Image.fromarray(frame).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX))
    result = np.zeros(len(thumbnails), FRAME)
    result["checksum"] = checksums
    result["hash"] = [hash_of(image) for image in thumbnails]
    for number in query_frames(len(thumbnails)):
        result["mirrored"][number] = hash_of(thumbnails[number].transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    pixels = np.array([np.asarray(image) for image in thumbnails], np.float32)
    coefficients = dctn(pixels, axes=(1, 2), norm="ortho")[:, :LOW, :LOW]
    result["dct"] = np.rint(SCALE * coefficients.reshape(len(pixels), -1))
    return result


def query_frames(num_frames: int) -> np.ndarray:
    """Numbers of the frames by which other clips are searched: one in 12, more in clips of less than 96 frames."""
    return np.arange(0, num_frames, min(12, max(1, num_frames // 8)))


def read_fingerprints(path: Path) -> dict[str, tuple[int, np.ndarray]]:
    """Size in bytes and fingerprint of clips by their paths, as appended to a file; empty if there is no file.

    The last entry of a clip counts. An entry that was cut off ends the file.
    """
    found: dict[str, tuple[int, np.ndarray]] = {}
    with suppress(FileNotFoundError, EOFError, ValueError), path.open("rb") as file:
        while True:
            size, _, clip = np.load(file).tobytes().decode("utf-8", "surrogateescape").partition(" ")
            fingerprint = np.load(file)
            if fingerprint.dtype == FRAME:
                found[clip] = int(size), fingerprint
    return found


def append_fingerprint(file: BinaryIO, clip: str, size: int, fingerprint: np.ndarray) -> None:
    """Append the fingerprint of a clip of `size` bytes: two arrays in NumPy's format, first "SIZE CLIP" in bytes."""
    name = f"{size} {clip}".encode("utf-8", "surrogateescape")
    for array in (np.frombuffer(name, np.uint8), fingerprint):
        np.save(file, array)


def write_fingerprints(path: Path, sizes: Mapping[str, int], fingerprints: Mapping[str, np.ndarray]) -> None:
    """Write a file of the fingerprints of clips of these sizes in bytes, atomically. Raises OSError."""

    def write(file: BinaryIO) -> None:
        for clip, fingerprint in fingerprints.items():
            append_fingerprint(file, clip, sizes[clip], fingerprint)

    write_atomically(path, write)


def longest_freeze(fingerprint: np.ndarray) -> tuple[int, int]:
    """First frame and length of the longest run of frames that look like the one before them; length 1 without any.

    Frames look alike if they differ by 0.1 gray levels at most (root mean square of the thumbnail), as encoding causes.
    """
    differences = np.diff(fingerprint["dct"].astype(np.float32), axis=0) / (SCALE * SIZE)
    changes = np.flatnonzero(np.square(differences).sum(axis=1) > STILL**2)
    starts, ends = np.concatenate([[0], changes + 1]), np.concatenate([changes + 1, [len(fingerprint)]])
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest] - starts[longest])


def repeated_frames(fingerprint: np.ndarray) -> int:
    """How many frames equal an earlier frame of the clip."""
    return len(fingerprint) - len(np.unique(fingerprint["checksum"]))
