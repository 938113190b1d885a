"""Checks a dataset before training: decodes every clip, and writes the manifest and fingerprints."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timesformer.atomic import report_write_errors
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.manifest import NAME, Row, clip_files, write_manifest
from timesformer.datasets.sources.clip_files import class_of
from timesformer.datasets.workers.pool import TIME_LIMIT, in_processes, without_path
from timesformer.preparation.fingerprints import (
    append_fingerprint,
    make_fingerprint,
    read_fingerprints,
    write_fingerprints,
)
from timesformer.progress import Progress

FINGERPRINTS = "fingerprints.npy"
UNFINISHED = "manifest.unfinished"


class Checked(NamedTuple):
    """A checked clip: its row of the manifest, and its fingerprint, FRAME (frames,); None if it cannot be read."""

    row: Row
    fingerprint: np.ndarray | None


def check_clips(
    root: Path,
    clips: Sequence[str],
    workers: int,
    time_limit: float = TIME_LIMIT,
    label_of: Callable[[str], str] = class_of,
    folder: Path | None = None,
) -> list[Checked]:
    """Decode every frame of the clips; write `manifest.csv` and `fingerprints.npy` to `folder`, by default `root`.

    `clips` are paths from `root`, with slashes. Those that an earlier or interrupted check has with the same size are
    not decoded again. A clip that takes longer than `time_limit` seconds counts as unreadable. Returns the result of
    each clip, in order. Raises UserError if a file cannot be written.
    """
    manifest, unfinished, stored = ((folder or root) / name for name in (NAME, UNFINISHED, FINGERPRINTS))
    unfinished_fingerprints = stored.with_suffix(".unfinished")
    before = {row.path: row for row in (*_rows_of(manifest), *_rows_of(unfinished))}
    files = {clip: clip_files(os.path.join(root, clip)) for clip in clips}
    sizes = {clip: found.bytes for clip, found in files.items()}
    interrupted = read_fingerprints(unfinished_fingerprints)
    found = read_fingerprints(stored) | interrupted
    fingerprints = {
        clip: fingerprint
        for clip, (size, fingerprint) in found.items()
        if clip in before and sizes.get(clip) == before[clip].bytes == size
    }
    rows = {
        clip: before[clip]._replace(**files[clip]._asdict())
        for clip in clips
        if clip in before and before[clip].bytes == sizes[clip] and (before[clip].problem or clip in fingerprints)
    }
    todo = [clip for clip in clips if clip not in rows]
    with report_write_errors(manifest, "run this as a user who may write there"):
        if interrupted or fingerprints.keys() != found.keys():
            write_fingerprints(stored, sizes, fingerprints)
        with (
            unfinished.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file,
            unfinished_fingerprints.open("wb") as fingerprint_file,
        ):
            outcomes = in_processes(partial(_measure, str(root)), todo, workers, time_limit)
            with Progress("checking clips", len(clips), "clip", len(rows)) as progress, closing(outcomes):
                for outcome in outcomes:
                    problem = without_path(outcome.problem, os.path.join(root, outcome.item))
                    row, fingerprint = outcome.result or (Row(outcome.item, problem=problem), None)
                    row = row._replace(**files[row.path]._asdict(), label=label_of(row.path))
                    rows[row.path] = row
                    if fingerprint is not None:
                        fingerprints[row.path] = fingerprint
                        append_fingerprint(fingerprint_file, row.path, row.bytes, fingerprint)
                        fingerprint_file.flush()
                    file.write(row.format() + "\n")
                    file.flush()
                    progress.advance()
        write_manifest(manifest, rows.values())
        if todo:
            write_fingerprints(stored, sizes, fingerprints)
        unfinished.unlink()
        unfinished_fingerprints.unlink()
    return [Checked(rows[clip], fingerprints.get(clip)) for clip in clips]


def _rows_of(path: Path) -> Iterator[Row]:
    """The complete rows of a manifest that may be missing or cut off."""
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    for line in text.split("\n")[:-1]:
        with suppress(ValueError):  # the header, or a line that was cut off
            yield Row.parse(line)


def _measure(root: str, clip: str) -> tuple[Row, np.ndarray]:
    """The row and the fingerprint of a clip. Raises VideoError if one of its frames cannot be decoded."""
    with open_video(os.path.join(root, clip)) as video:
        fingerprint = make_fingerprint(video.frames())
        _, height, width, _ = video.read([0]).shape
        row = Row(clip, "", video.num_frames, round(video.fps, 6), width, height, round(video.seconds, 3))
    return row, fingerprint
