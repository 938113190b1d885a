"""Checks a dataset before training: decodes every clip, writes the manifest, and reads the official lists."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from timesformer.atomic import report_write_errors
from timesformer.config import get_cfg
from timesformer.datasets.catalog import DATASET_REGISTRY
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.manifest import NAME, Row, clip_bytes, write_manifest
from timesformer.datasets.records import SPLITS
from timesformer.datasets.sources.clip_files import class_of
from timesformer.datasets.workers.pool import TIME_LIMIT, in_processes, without_path
from timesformer.errors import UserError
from timesformer.progress import Progress

UNFINISHED = "manifest.unfinished"


def check_clips(
    root: Path,
    clips: Sequence[str],
    workers: int,
    time_limit: float = TIME_LIMIT,
    label_of: Callable[[str], str] = class_of,
    folder: Path | None = None,
) -> list[Row]:
    """Decode every frame of the clips and write `manifest.csv` to `folder`, by default `root`.

    `clips` are paths from `root`, with slashes. Those that an earlier or interrupted check has with the same size are
    not decoded again. A clip that takes longer than `time_limit` seconds counts as unreadable. Returns a row for each
    clip, in order. Raises UserError if the manifest cannot be written.
    """
    manifest, unfinished = (folder or root) / NAME, (folder or root) / UNFINISHED
    before = {row.path: row for row in (*_rows_of(manifest), *_rows_of(unfinished))}
    sizes = {clip: clip_bytes(os.path.join(root, clip)) for clip in clips}
    rows = {clip: before[clip] for clip in clips if clip in before and before[clip].bytes == sizes[clip]}
    todo = [clip for clip in clips if clip not in rows]
    with report_write_errors(manifest, "run this as a user who may write there"):
        with unfinished.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            outcomes = in_processes(partial(_measure, str(root)), todo, workers, time_limit)
            with Progress("checking clips", len(clips), "clip", len(rows)) as progress, closing(outcomes):
                for outcome in outcomes:
                    problem = without_path(outcome.problem, os.path.join(root, outcome.item))
                    row = outcome.result or Row(outcome.item, problem=problem)
                    row = row._replace(bytes=sizes[row.path], label=label_of(row.path))
                    rows[row.path] = row
                    file.write(row.format() + "\n")
                    file.flush()
                    progress.advance()
        write_manifest(manifest, rows.values())
        unfinished.unlink()
    return [rows[clip] for clip in clips]


def _rows_of(path: Path) -> Iterator[Row]:
    """The complete rows of a manifest that may be missing or cut off."""
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    for line in text.split("\n")[:-1]:
        with suppress(ValueError):  # the header, or a line that was cut off
            yield Row.parse(line)


def _measure(root: str, clip: str) -> Row:
    """The row of a clip. Raises VideoError if one of its frames cannot be decoded."""
    with open_video(os.path.join(root, clip)) as video:
        video.verify()
        _, height, width, _ = video.read([0]).shape
        return Row(clip, "", video.num_frames, round(video.fps, 6), width, height, round(video.seconds, 3))


def check_lists(dataset: str, root: Path) -> list[str]:
    """Why training with the default configuration would refuse the lists of a dataset in `root`, if it would."""
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    problems = []
    for split in SPLITS:
        try:
            DATASET_REGISTRY.get(dataset)(cfg, split)
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))
