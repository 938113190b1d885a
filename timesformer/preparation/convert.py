"""Converts the clips of a dataset into another folder, in several processes; an interrupted run continues."""

import csv
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.datasets.manifest import NAME, clip_files
from timesformer.datasets.records import DataError, join_problems
from timesformer.datasets.sources.clip_files import walk
from timesformer.datasets.workers.pool import TIME_LIMIT, in_processes, without_path
from timesformer.preparation.clips_on_disk import is_list_name
from timesformer.preparation.encode import encode_frames, encode_video, remove
from timesformer.progress import Progress

logger = logging.getLogger(__name__)

SETTINGS = "conversion.json"
"""The settings of the conversion, and the clips that failed with their problems."""
SIZES = "conversion.csv"
"""Path and bytes of every converted clip; one that has another size now is converted again."""


class _Job(NamedTuple):
    source: str
    target: str
    short_side: int
    quality: int  # of JPEG frames; 0 for a video


def _run_job(job: _Job) -> None:
    encode_frames(*job) if job.quality else encode_video(*job[:3])


def convert(
    root: Path,
    clips: Sequence[str],
    output: Path,
    short_side: int = 0,
    quality: int = 0,
    workers: int = 1,
    time_limit: float = TIME_LIMIT,
) -> dict[str, str]:
    """Make a clip in `output` of each clip in `root`, x.mp4 or a folder x of frames, and copy the dataset's lists.

    Clips in `output` are kept, unless the source has another size now; lists are kept. A clip that cannot be converted,
    or not within `time_limit` seconds, is copied, so that none disappears from a test.

    Args:
        clips: paths from `root`, with slashes.
        short_side: pixels that the short side is scaled down to; 0 keeps the size.
        quality: of JPEG frames, 1 to 95; 0 makes H.264 files.

    Returns why clips were not converted, by path. Raises UserError.
    """
    source, target = root.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise DataError(f"{output} and {root} overlap: give --output another folder")
    suffix = "" if quality else ".mp4"
    targets = {clip: (os.path.splitext(clip)[0] if (root / clip).is_file() else clip) + suffix for clip in clips}
    sources = defaultdict(list)
    for clip, name in targets.items():
        sources[name].append(clip)
    if shared := [" and ".join(names) for names in sources.values() if len(names) > 1]:
        raise join_problems(f"{root}: clips that would become one", shared, "rename one of them")
    settings: dict[str, Any] = {"made_by": "reencode", "short_side": short_side}
    if quality:
        settings = {"made_by": "extract_frames", "short_side": short_side, "quality": quality}
    with report_write_errors(output, "choose another --output"):
        output.mkdir(parents=True, exist_ok=True)
        failed = _read_failed(output, settings)
        _write_settings(output, settings, failed)
        _copy_lists(root, output)
        sizes, before = {clip: clip_files(str(root / clip)).bytes for clip in clips}, _read_sizes(output)
        changed = {clip for clip in clips if before.get(clip, sizes[clip]) != sizes[clip]}
        todo = [clip for clip in clips if clip in failed or clip in changed or not (output / targets[clip]).exists()]
        clip_of = {str(root / clip): clip for clip in todo}
        jobs = [_Job(path, str(output / targets[clip]), short_side, quality) for path, clip in clip_of.items()]
        outcomes = in_processes(_run_job, jobs, workers, time_limit)
        with (
            Progress("converting clips", len(clips), "clip", len(clips) - len(todo)) as progress,
            closing(outcomes),
            (output / SIZES).open("a", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerows((clip, sizes[clip]) for clip in clips if clip not in before and clip not in todo)
            for outcome in outcomes:
                clip = clip_of[outcome.item.source]
                if outcome.problem:
                    failed[clip] = without_path(outcome.problem, outcome.item.source)
                    _write_settings(output, settings, failed)
                    for path in (output / targets[clip], output / clip):
                        remove(path)
                    (output / clip).parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if (root / clip).is_dir() else shutil.copyfile)(root / clip, output / clip)
                else:
                    table.writerow((clip, sizes[clip]))
                    file.flush()
                    if failed.pop(clip, None) is not None and clip != targets[clip]:
                        remove(output / clip)
                progress.advance()
        _write_settings(output, settings, failed)
    return failed


def _write_settings(output: Path, settings: dict[str, Any], failed: dict[str, str]) -> None:
    content = settings | {"copied_as_it_was": failed}
    write_text_atomically(output / SETTINGS, json.dumps(content, indent=2) + "\n")


def _read_failed(output: Path, settings: dict[str, Any]) -> dict[str, str]:
    if not (output / SETTINGS).is_file():
        return {}
    try:
        found = json.loads((output / SETTINGS).read_bytes())
        failed = dict(found.pop("copied_as_it_was"))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{output / SETTINGS} is damaged: remove it, or give another --output") from error
    if found != settings:
        raise DataError(f"{output} has clips made with {found}, not {settings}: remove it, or give another --output")
    return failed


def _read_sizes(output: Path) -> dict[str, int]:
    """The complete lines of SIZES."""
    if not (output / SIZES).is_file():
        return {}
    with (output / SIZES).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {clip: int(size) for clip, size in csv.reader(line for line in file if line.endswith("\n"))}


def _copy_lists(root: Path, output: Path) -> None:
    for folder, _, files in walk(root):
        for name in files:
            if is_list_name(name) and name not in (NAME, SETTINGS, SIZES):
                copy, content = output / folder / name, (root / folder / name).read_bytes()
                if not copy.exists():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(copy, lambda file, content=content: file.write(content))
                elif copy.read_bytes() != content:
                    logger.warning("%s differs from the one in %s and is kept: remove it to copy that", copy, root)
