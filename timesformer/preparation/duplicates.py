"""Finds clips that show the same frames, exactly or nearly, by their fingerprints."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from timesformer.preparation.fingerprints import LOW, SCALE, SIZE, STILL, query_frames
from timesformer.progress import Progress

_MIN_OVERLAP = 8  # frames that two clips share at least, or all frames of the shorter one
_LAG = 3  # frames: motion is the difference of frames at this distance
_BANDS, _MAX_BITS = 4, 3  # hashes that differ in 3 bits at most are equal in one of 4 bands
_CHUNK = 1 << 22  # pairs of hashes that are compared together
_FLAT = 4.0  # gray levels: the hash of a frame whose standard deviation is lower is noise
_NOISE = 0.1  # gray levels, by which frames differ without motion
_STILL_EXPONENT = 20  # the similarity of clips without motion is this power of the correlation of their frames
_OFFSETS = 4  # that are most promising are compared frame by frame, and those next to them
_MIRROR = np.where(np.arange(LOW * LOW) % LOW % 2, -1, 1).astype(np.float32)
_BIT_COUNTS = np.unpackbits(np.arange(1 << 16, dtype=">u2").view(np.uint8)).reshape(-1, 16).sum(1, dtype=np.uint8)


class Pair(NamedTuple):
    """Two clips, by their numbers, that show the same frames.

    `similarity` is from 0 to 1. Frame t of `first` is frame t + `offset` of `second`, for `overlap` frames; if their
    frame rates differ, both are in frames of the lower rate. `mirrored`: left and right are exchanged. `equal_frames`
    are pictures that are equal pixel by pixel; `exact`: all frames of both clips are.
    """

    first: int
    second: int
    similarity: float
    offset: int
    overlap: int
    mirrored: bool = False
    equal_frames: int = 0
    exact: bool = False


def find_pairs(clips: Sequence[np.ndarray], rates: Sequence[float], threshold: float) -> Iterator[Pair]:
    """Yield pairs of clips of at least the similarity `threshold`, once each.

    Args:
        clips: fingerprints, each FRAME (frames,).
        rates: frames per second of each clip; 0 if unknown, which counts as the rate of the other clip.
    """
    found: set[tuple[int, int]] = set()
    for first, second in _equal_clips(clips):
        found.add((first, second))
        num_frames = len(clips[first])
        yield Pair(first, second, 1.0, 0, num_frames, equal_frames=num_frames, exact=True)
    thumbnails = [_thumbnails(clip) for clip in clips]
    for mirrored in (False, True):
        candidates = [pair for pair in _candidates(clips, mirrored) if pair not in found]
        if not candidates:
            continue
        with Progress(f"comparing {'mirrored ' * mirrored}clips", len(candidates), "pair") as progress:
            for first, second in candidates:
                a, b = _at_one_rate(thumbnails[first], thumbnails[second], rates[first], rates[second])
                similarity, offset, overlap = _compare(a * _MIRROR if mirrored else a, b)
                progress.advance()
                if similarity >= threshold:
                    found.add((first, second))
                    equal = len(np.intersect1d(clips[first]["checksum"], clips[second]["checksum"]))
                    yield Pair(first, second, similarity, offset, overlap, mirrored, equal)


def _equal_clips(clips: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of clips whose frames are all equal."""
    groups: dict[bytes, list[int]] = {}
    for number, clip in enumerate(clips):
        groups.setdefault(clip["checksum"].tobytes(), []).append(number)
    for members in groups.values():
        yield from combinations(members, 2)


def _thumbnails(clip: np.ndarray) -> np.ndarray:
    """Frequencies of the frames without the mean, orthonormal, in gray levels; float32 (frames, 64)."""
    frequencies = clip["dct"].astype(np.float32) / SCALE
    frequencies[:, 0] = 0
    return frequencies


def _candidates(clips: Sequence[np.ndarray], mirrored: bool) -> list[tuple[int, int]]:
    """Pairs of clips, the lower number first, with a frame whose hashes differ in few bits, sorted."""
    hashes, owners, queries, query_owners = [], [], [], []
    for number, clip in enumerate(clips):
        contrast = np.square(clip["dct"][:, 1:] / (SCALE * SIZE)).sum(axis=1) ** 0.5
        usable = contrast >= _FLAT
        unique = np.unique(clip["hash"][usable])
        asked = query_frames(len(clip))
        asked = np.unique(clip["mirrored" if mirrored else "hash"][asked[usable[asked]]])
        hashes.append(unique)
        owners.append(np.full(len(unique), number))
        queries.append(asked)
        query_owners.append(np.full(len(asked), number))
    every, asked = (np.concatenate(parts or [np.empty(0, np.uint64)]) for parts in (hashes, queries))
    owner, query_owner = (np.concatenate(parts or [np.empty(0, int)]) for parts in (owners, query_owners))
    pairs = [np.empty(0, np.int64)]
    for band in range(_BANDS):
        keys, query_keys = (_band(values, band) for values in (every, asked))
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        start, end = (np.searchsorted(sorted_keys, query_keys, side) for side in ("left", "right"))
        for chosen in _chunks(end - start):
            counts = (end - start)[chosen]
            query = np.repeat(chosen, counts)
            match = order[np.arange(counts.sum()) + np.repeat(start[chosen] - np.cumsum(counts) + counts, counts)]
            near = _count_bits(asked[query] ^ every[match]) <= _MAX_BITS
            one, other = query_owner[query[near]], owner[match[near]]
            codes = np.minimum(one, other) * len(clips) + np.maximum(one, other)
            pairs.append(np.unique(codes[one != other]))
    codes = np.unique(np.concatenate(pairs))
    return list(zip((codes // max(len(clips), 1)).tolist(), (codes % max(len(clips), 1)).tolist(), strict=True))


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return (hashes >> np.uint64(16 * band)).astype(np.uint16)


def _count_bits(values: np.ndarray) -> np.ndarray:
    return sum(_BIT_COUNTS[_band(values, band)] for band in range(4))


def _chunks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the counts in parts whose sums are about _CHUNK; at least one in each."""
    numbers = np.cumsum(counts) // _CHUNK
    yield from np.split(np.arange(len(counts)), np.flatnonzero(np.diff(numbers)) + 1)


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[float, int, int]:
    """The similarity of two clips, float32 (frames, 64), at the best offset; the offset, and the frames they share.

    The similarity is the correlation of their motion, the differences of frames at a distance of _LAG, which is low
    for clips of one scene at different times although their backgrounds are equal. It is not above the correlation of
    the frames. Clips in which nothing moves are compared by the latter only.
    """
    shortest = min(len(a), len(b), _MIN_OVERLAP)
    lag = min(_LAG, shortest // 2)
    motion_a, motion_b = (clip[lag:] - clip[: len(clip) - lag] for clip in (a, b))
    is_still = max(float(_energy(motion).mean()) for motion in (motion_a, motion_b)) < (SIZE * STILL) ** 2
    best = (-1.0, 0, 0)
    for offset in _promising_offsets(motion_a, motion_b, shortest - lag):
        start, stop = max(0, -offset), min(len(a), len(b) - offset)
        similarity = _correlation(a[start:stop], b[start + offset : stop + offset], 0.0)
        if is_still:
            similarity = max(0.0, similarity) ** _STILL_EXPONENT
        else:
            moved = motion_a[start : stop - lag], motion_b[start + offset : stop + offset - lag]
            similarity = min(similarity, _correlation(*moved, _NOISE))
        best = max(best, (similarity, offset, stop - start))
    return best


def _correlation(a: np.ndarray, b: np.ndarray, noise: float) -> float:
    """The correlation of clips of equal length, lower where they are not far above the noise in gray levels."""
    energy = np.sqrt(np.square(a).sum() * np.square(b).sum()) + len(a) * (SIZE * noise) ** 2
    return float((a * b).sum() / energy) if energy else 1.0


def _promising_offsets(a: np.ndarray, b: np.ndarray, shortest: int) -> list[int]:
    """Offsets of the motion `b` at which some frames of `a` correlate best, and offsets next to them.

    Both share `shortest` frames or more.
    """
    at = query_frames(len(a))
    queries, size = a[at], len(b) + at[-1]
    where = (np.arange(len(b)) - at[:, None] + at[-1]).ravel()

    def add(values: np.ndarray) -> np.ndarray:
        return np.bincount(where, np.broadcast_to(values, (len(at), len(b))).ravel(), size)

    products, energy_a, energy_b = add(queries @ b.T), add(_energy(queries)[:, None]), add(_energy(b))
    noise = add(np.ones(1)) * (SIZE * _NOISE) ** 2
    scores = products / np.maximum(np.sqrt(energy_a * energy_b) + noise, 1e-9)
    offsets = np.arange(size) - at[-1]
    shared = np.minimum(len(a), len(b) - offsets) - np.maximum(0, -offsets)
    scores[(shared < shortest) | (noise == 0)] = -np.inf
    best = np.lexsort((np.abs(offsets), -scores))[:_OFFSETS]
    near = np.unique(np.clip(best[:, None] + [-1, 0, 1], 0, size - 1))
    return offsets[near[np.isfinite(scores[near])]].tolist()


def _energy(frames: np.ndarray) -> np.ndarray:
    return np.square(frames).sum(axis=1)


def _at_one_rate(a: np.ndarray, b: np.ndarray, rate_a: float, rate_b: float) -> tuple[np.ndarray, np.ndarray]:
    """The frames of both clips at the lower of their rates."""
    if not (rate_a and rate_b) or abs(rate_a - rate_b) < 0.01 * rate_a:
        return a, b
    return _at_rate(a, rate_a, min(rate_a, rate_b)), _at_rate(b, rate_b, min(rate_a, rate_b))


def _at_rate(frames: np.ndarray, rate: float, lower: float) -> np.ndarray:
    wanted = np.arange(0, len(frames) - 0.5, rate / lower)
    return frames[np.rint(wanted).astype(int)]
