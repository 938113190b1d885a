"""A dataset's clips into another form in another folder, many at once, going on where an earlier run was stopped."""

import csv
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.datasets.manifest import NAME, clip_bytes
from timesformer.datasets.records import DataError, join_problems
from timesformer.datasets.sources.clip_files import walk
from timesformer.datasets.workers.pool import TIME_LIMIT, in_processes, without_path
from timesformer.preparation.clips_on_disk import is_list_name
from timesformer.progress import Progress

logger = logging.getLogger(__name__)

NOTE = "conversion.json"
SIZES = "conversion.csv"
"""Path and bytes of every clip that was converted: one that has others now is converted again."""


@dataclass(frozen=True)
class Job:
    """One clip to be converted: paths of the clip and of what is made of it, and how."""

    source: str
    target: str
    short_side: int
    quality: int


def convert(
    root: Path,
    clips: Sequence[str],
    output: Path,
    make: Callable[[Job], None],
    suffix: str,
    short_side: int,
    quality: int,
    workers: int,
    time_limit: float = TIME_LIMIT,
) -> dict[str, str]:
    """Make of each clip `root`/x.avi a clip `output`/x<suffix>, and put the dataset's lists beside them.

    Nothing in `root` is changed. Clips that are in `output` already are left alone, unless the source has another size
    now, so that a run that was stopped goes on; lists that are there stay as they are. Whatever `make` does must let a
    clip appear as a whole. A clip that cannot be converted is copied as it is, so that none vanishes from the dataset:
    it stays what it was, a clip that cannot be read.

    Args:
        root, output: folders, neither of them in the other.
        clips: paths from `root`, with slashes.
        make: `reencode.reencode` or `jpeg_frames.extract_frames`.
        suffix: of the clips made: ".mp4", or "" for folders.
        short_side, quality: see Job; the quality counts for folders.
        workers: processes, 1 or more.
        time_limit: seconds after which the work on a clip is given up.

    Returns:
        Why clips were not converted, by path.

    Raises:
        DataError: if two clips would become one, the folders lie in each other, or `output` has clips converted
            otherwise.
        UserError: if `output` cannot be written.
    """
    source, target = root.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise DataError(f"{output} and {root} lie in each other: give --output a folder of its own")
    targets = {clip: os.path.splitext(clip)[0] + suffix if _is_file(root, clip) else clip + suffix for clip in clips}
    if twice := [name for name, count in Counter(targets.values()).items() if count > 1]:
        sources = [" and ".join(clip for clip in clips if targets[clip] == name) for name in twice[:20]]
        raise join_problems(f"{root}: clips that would become one", sources, "give one of them another name")
    settings = {"made_by": make.__name__, "short_side": short_side} | ({} if suffix else {"quality": quality})
    with report_write_errors(output, "choose another --output"):
        output.mkdir(parents=True, exist_ok=True)
        failed = _failed_before(output, settings)
        write_text_atomically(output / NOTE, _note(settings, failed))
        _copy_lists(root, output)
        sizes, before = {clip: clip_bytes(str(root / clip)) for clip in clips}, _sizes_before(output)
        stale = {clip for clip in clips if before.get(clip, sizes[clip]) != sizes[clip]}
        todo = [clip for clip in clips if clip in failed or clip in stale or not (output / targets[clip]).exists()]
        jobs = {str(root / clip): clip for clip in todo}
        outcomes = in_processes(
            make,
            [Job(place, str(output / targets[clip]), short_side, quality) for place, clip in jobs.items()],
            workers,
            time_limit,
        )
        with (
            Progress("converting clips", len(clips), "clip", len(clips) - len(todo)) as progress,
            closing(outcomes),
            (output / SIZES).open("a", encoding="utf-8", errors="surrogateescape", newline="") as done,
        ):
            table = csv.writer(done, lineterminator="\n")
            table.writerows((clip, sizes[clip]) for clip in clips if clip not in before and clip not in todo)
            for outcome in outcomes:
                clip = jobs[outcome.item.source]
                if outcome.problem:
                    failed[clip] = without_path(outcome.problem, outcome.item.source)
                    write_text_atomically(output / NOTE, _note(settings, failed))
                    _remove(output / targets[clip])
                    _copy(root / clip, output / clip)
                else:
                    table.writerow((clip, sizes[clip]))
                    done.flush()
                    if failed.pop(clip, None) is not None and clip != targets[clip]:
                        _remove(output / clip)
                progress.advance()
        write_text_atomically(output / NOTE, _note(settings, failed))
    return failed


def _is_file(root: Path, clip: str) -> bool:
    return (root / clip).is_file()


def _note(settings: dict[str, Any], failed: dict[str, str]) -> str:
    return json.dumps(settings | {"copied_as_it_was": failed}, indent=2) + "\n"


def _failed_before(output: Path, settings: dict[str, Any]) -> dict[str, str]:
    if not (output / NOTE).is_file():
        return {}
    remedy = "give another --output, or remove it"
    try:
        note = json.loads((output / NOTE).read_bytes())
        failed = dict(note.pop("copied_as_it_was"))
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{output / NOTE} does not say how {output} was made ({reason}): {remedy}") from error
    if note != settings:
        raise DataError(f"{output} has clips made with {note}, not {settings}: {remedy}")
    return failed


def _sizes_before(output: Path) -> dict[str, int]:
    if not (output / SIZES).is_file():
        return {}
    with (output / SIZES).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [line.rstrip("\n").rpartition(",") for line in file if line.endswith("\n")]
    return {next(csv.reader([path]))[0]: int(size) for path, _, size in rows if path and size.isdecimal()}


def _copy_lists(root: Path, output: Path) -> None:
    for place, _, files in walk(root):
        for name in files:
            if is_list_name(name) and name not in (NAME, NOTE, SIZES):
                copy, content = output / place / name, (root / place / name).read_bytes()
                if not copy.exists():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(copy, lambda file, content=content: file.write(content))
                elif copy.read_bytes() != content:
                    logger.warning("%s is not what %s is; it stays: remove it to have it copied", copy, root)


def _copy(source: Path, target: Path) -> None:
    _remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
