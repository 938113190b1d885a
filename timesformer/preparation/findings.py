"""Results of the check of a dataset: its clips by class, duplicates, frozen clips and leakage between splits."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError
from timesformer.preparation.check import Checked
from timesformer.preparation.duplicates import Pair, find_pairs
from timesformer.preparation.fingerprints import longest_freeze, repeated_frames
from timesformer.preparation.leakage import Accuracy, FoundSplits, format_groups, group, measure_accuracy

JSON, GROUPS = "data_report.json", "duplicate_groups.csv"


class Freeze(NamedTuple):
    """A clip that shows the same picture for `frames` frames, from frame number `start`."""

    clip: str
    start: int
    frames: int


class Leak(NamedTuple):
    """A duplicate across splits: `clip` is in `split`, "test" or "val"; `of` is in `other`, "train" or "val"."""

    clip: str
    split: str
    of: str
    other: str
    pair: Pair


@dataclass(frozen=True)
class Findings:
    """The results of a check; numbers of clips in `pairs` are indices into `clips`, which are sorted by path."""

    root: Path
    dataset: str
    clips: Sequence[Checked]
    threshold: float | None  # of the similarity of duplicates; None if they were not searched
    pairs: Sequence[Pair] = ()
    frozen: Sequence[Freeze] = ()
    splits: FoundSplits = field(default_factory=FoundSplits)
    leaks: Sequence[Leak] = ()
    duplicated: frozenset[str] = frozenset()  # clips with a duplicate
    groups: Mapping[str, str] = field(default_factory=dict)  # of these, and of clips that DATA.SPLIT_GROUPS groups
    accuracy: Accuracy | None = None

    def name(self, number: int) -> str:
        """The path of a clip."""
        return self.clips[number].row.path

    def leaked(self, split: str) -> list[str]:
        """Clips of "test" or "val" that have a duplicate in a split before it, sorted."""
        return sorted({leak.clip for leak in self.leaks if leak.split == split})


def examine(
    root: Path,
    dataset: str,
    clips: Sequence[Checked],
    splits: FoundSplits,
    threshold: float | None,
    freeze: float,
    run: Path | None,
) -> Findings:
    """Finds duplicates of at least the similarity `threshold` (None: do not search), frozen clips and leakage.

    A clip is frozen if at least the fraction `freeze` of its frames, and 3 frames, are one unchanged picture. `run` is
    the OUTPUT_DIR of a run whose test accuracy is measured without leaked clips.
    """
    readable = [number for number, clip in enumerate(clips) if clip.fingerprint is not None]
    fingerprints, rates = [clips[n].fingerprint for n in readable], [clips[n].row.fps for n in readable]
    found = find_pairs(fingerprints, rates, threshold) if threshold is not None else ()
    pairs = sorted(pair._replace(first=readable[pair.first], second=readable[pair.second]) for pair in found)
    paths = [clip.row.path for clip in clips]
    leaks = list(_find_leaks(pairs, paths, splits.split_of))
    duplicates = [(paths[pair.first], paths[pair.second]) for pair in pairs]
    groups = group([*duplicates, *splits.grouped])
    duplicated = frozenset(path for pair in duplicates for path in pair)
    leaked = {splits.test_names[leak.clip] for leak in leaks if leak.split == "test"}
    accuracy = None if run is None or threshold is None else measure_accuracy(run, leaked)
    frozen = [Freeze(paths[n], *longest_freeze(clips[n].fingerprint)) for n in readable]
    frozen = [found for found, n in zip(frozen, readable, strict=True) if _freezes(found, clips[n], freeze)]
    return Findings(root, dataset, clips, threshold, pairs, frozen, splits, leaks, duplicated, groups, accuracy)


def _freezes(found: Freeze, clip: Checked, fraction: float) -> bool:
    return found.frames >= max(3, fraction * len(clip.fingerprint))


def _find_leaks(pairs: Iterable[Pair], paths: Sequence[str], split_of: Mapping[str, str]) -> Iterable[Leak]:
    order = ("train", "val", "test")
    for pair in pairs:
        sides = [(split_of[path], path) for path in (paths[pair.first], paths[pair.second]) if path in split_of]
        if len({split for split, _ in sides}) == 2:
            (other, of), (split, clip) = sorted(sides, key=lambda side: order.index(side[0]))
            yield Leak(clip, split, of, other, pair)


class ClassSummary(NamedTuple):
    """Clips of a class. Seconds are those of clips with a known frame rate; `sizes` counts clips by (width, height)."""

    label: str
    clips: int
    unreadable: int
    frames: int
    repeated_frames: int  # equal to an earlier frame of the same clip
    seconds: float
    shortest: float
    median: float
    longest: float
    sizes: Mapping[tuple[int, int], int]
    frozen: int
    duplicates: int  # clips in a pair


def summarize(findings: Findings) -> list[ClassSummary]:
    """The summary of each class, sorted by name."""
    frozen, paired = {freeze.clip for freeze in findings.frozen}, findings.duplicated
    members: dict[str, list[Checked]] = {}
    for clip in findings.clips:
        label = clip.row.label or findings.splits.label_of.get(clip.row.path, "")
        members.setdefault(label, []).append(clip)
    return [_summary(label, members[label], frozen, paired) for label in sorted(members)]


def _summary(label: str, clips: Sequence[Checked], frozen: Iterable[str], paired: Iterable[str]) -> ClassSummary:
    rows = [clip.row for clip in clips if not clip.row.problem]
    seconds = [row.seconds for row in rows if row.seconds] or [0.0]
    return ClassSummary(
        label=label,
        clips=len(clips),
        unreadable=len(clips) - len(rows),
        frames=sum(row.frames for row in rows),
        repeated_frames=sum(repeated_frames(clip.fingerprint) for clip in clips if clip.fingerprint is not None),
        seconds=round(sum(seconds), 3),
        shortest=min(seconds),
        median=statistics.median(seconds),
        longest=max(seconds),
        sizes=Counter((row.width, row.height) for row in rows),
        frozen=sum(row.path in frozen for row in rows),
        duplicates=sum(row.path in paired for row in rows),
    )


def write_findings(findings: Findings, folder: Path) -> None:
    """Writes data_report.json, and the groups of duplicates to duplicate_groups.csv, to a folder.

    Raises WriteError if that fails.
    """
    write_text_atomically(folder / JSON, json.dumps(to_json(findings), indent=1) + "\n")
    if findings.threshold is not None:
        write_text_atomically(folder / GROUPS, format_groups(findings.groups))


def read_summaries(folder: Path) -> list[ClassSummary]:
    """The classes in the data_report.json of a folder. Raises UserError."""
    path = folder / JSON
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["classes"]
        sizes = [{tuple(map(int, size.split("x"))): n for size, n in row["sizes"].items()} for row in rows]
        return [ClassSummary(**{**row, "sizes": of_row}) for row, of_row in zip(rows, sizes, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): check the data again") from error


def to_json(findings: Findings) -> dict[str, Any]:
    """The content of data_report.json (docs/preparing.md)."""
    rows = [clip.row for clip in findings.clips]

    def describe(pair: Pair) -> dict[str, Any]:
        content = pair._asdict() | {"first": rows[pair.first].path, "second": rows[pair.second].path}
        return content | {"similarity": round(pair.similarity, 4)}

    return {
        "dataset": findings.dataset,
        "clips": len(rows),
        "classes": [
            summary._asdict() | {"sizes": {f"{w}x{h}": count for (w, h), count in summary.sizes.items()}}
            for summary in summarize(findings)
        ],
        "unreadable": {row.path: row.problem for row in rows if row.problem},
        "duplicate_threshold": findings.threshold,
        "duplicates": [describe(pair) for pair in findings.pairs],
        "frozen": [freeze._asdict() for freeze in findings.frozen],
        "splits": dict(Counter(findings.splits.split_of.values())),
        "split_problems": findings.splits.problems,
        "leaks": [leak._asdict() | {"pair": describe(leak.pair)} for leak in findings.leaks],
        "accuracy": findings.accuracy and findings.accuracy._asdict(),
    }
