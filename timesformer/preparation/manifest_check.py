"""Opening and decoding every clip of a dataset before any training, and writing down what each one is: the manifest."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from timesformer.atomic import report_write_errors
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.manifest import NAME, Row, clip_bytes, rows_of, write_manifest
from timesformer.datasets.sources.clip_files import class_of
from timesformer.datasets.workers.pool import TIME_LIMIT, in_processes, without_path
from timesformer.progress import Progress

UNFINISHED = "manifest.unfinished"


def check(
    root: Path,
    clips: Sequence[str],
    workers: int,
    time_limit: float = TIME_LIMIT,
    label_of: Callable[[str], str] | None = class_of,
    folder: Path | None = None,
) -> list[Row]:
    """Decode every frame of the clips and write `manifest.csv` in `folder`, by default `root`.

    A clip that the manifest knows already, with as many bytes as it has now, is not decoded again; nor is one that an
    interrupted check got through: those are in `manifest.unfinished`, a line for each as soon as it is known.

    Args:
        root: folder of the dataset.
        clips: paths from `root`, with slashes.
        workers: processes that decode, 1 or more.
        time_limit: seconds after which a clip is given up as unreadable.
        label_of: the class of a clip by its path; None where paths do not tell.
        folder: for the manifest. Training looks for it in `root` alone.

    Returns:
        A row for each clip, in the order of `clips`.

    Raises:
        UserError: if the manifest cannot be written.
    """
    manifest, unfinished = (folder or root) / NAME, (folder or root) / UNFINISHED
    before = {row.path: row for row in (*rows_of(manifest), *rows_of(unfinished))}
    sizes = {clip: clip_bytes(os.path.join(root, clip)) for clip in clips}
    rows = {clip: before[clip] for clip in clips if clip in before and before[clip].bytes == sizes[clip]}
    todo = [clip for clip in clips if clip not in rows]
    with report_write_errors(manifest, "let somebody do it who may write there"):
        with unfinished.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            outcomes = in_processes(partial(_measure, str(root)), todo, workers, time_limit)
            with Progress("checking clips", len(clips), "clip", len(rows)) as progress, closing(outcomes):
                for outcome in outcomes:
                    problem = without_path(outcome.problem, os.path.join(root, outcome.item))
                    row = outcome.result or Row(outcome.item, problem=problem)
                    row = row._replace(bytes=sizes[row.path], label=label_of(row.path) if label_of else "")
                    rows[row.path] = row
                    file.write(row.format() + "\n")
                    file.flush()
                    progress.advance()
        write_manifest(manifest, rows.values())
        unfinished.unlink()
    return [rows[clip] for clip in clips]


def _measure(root: str, clip: str) -> Row:
    """What the clip is; VideoError if one of its frames cannot be decoded."""
    with open_video(os.path.join(root, clip)) as video:
        video.verify()
        _, height, width, _ = video.read([0]).shape
        return Row(clip, "", video.num_frames, round(video.fps, 6), width, height, round(video.seconds, 3))
