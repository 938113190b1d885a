"""Writes the clips of a dataset into tar shards, with their index and lists to train from; continues after a stop."""

import csv
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.byte_ranges import file_status
from timesformer.datasets.catalog import find_clips
from timesformer.datasets.decoding.images import frame_files, numbered_frames
from timesformer.datasets.decoding.shards import BLOCK, ShardFile, clip_name
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, MissingSplitError, VideoRecord, join_problems
from timesformer.datasets.sources.clip_files import is_video_name, stem
from timesformer.datasets.sources.folder import CSV_HEADER
from timesformer.datasets.sources.shard_index import scan_shard, write_index
from timesformer.progress import Progress

KEEP_LISTS = ("muwiges", "ssv2")
"""Datasets that train from shards with their own lists, which have more than paths and labels."""

_LABEL = ".cls"  # the extension of class labels in WebDataset
_AGAIN = "run the same command again, which keeps complete shards"
_SEED = 0  # of the order of training clips


class _Member(NamedTuple):
    """A file of a shard: a copy of the file `source`, or `content`."""

    name: str
    size: int
    mtime: int
    source: str = ""
    content: bytes = b""

    def header(self) -> tarfile.TarInfo:
        header = tarfile.TarInfo(self.name)
        header.size, header.mtime = self.size, self.mtime
        return header

    def bytes(self) -> int:
        """Its size in the shard."""
        return len(self.header().tobuf(tarfile.PAX_FORMAT)) + -(-self.size // BLOCK) * BLOCK


class Written(NamedTuple):
    """The shards of a dataset: their number, clips and bytes; clips that were left out as they do not exist."""

    shards: int
    clips: int
    bytes: int
    missing: list[str]


def write_shards(cfg: CfgNode, output: Path, max_bytes: int) -> Written:
    """Write the clips of each split of TRAIN.DATASET to `output`, in shards of about `max_bytes`.

    A shard has the video or frames of each clip and its label, `<name>.mp4` or `<name>/<frame>.jpg`, and `<name>.cls`,
    as WebDataset reads them; training clips are in a random order. A clip with the name of a clip of an earlier split
    is in the folder `<split>`. Lists of the clips, in the order of the dataset, are written unless the dataset is one
    of KEEP_LISTS. Complete shards of an interrupted run are kept.

    Raises DataError for a dataset without splits, clips that cannot be read or put into shards, and other shards in
    `output`.
    """
    splits = _find_splits(cfg)
    plan = _plan(splits, max_bytes)
    if strangers := sorted({path.name for path in output.glob("*.tar")} - set(plan.shards)):
        raise DataError(
            f"{output} has other shards, such as {strangers[0]}: give --output another folder, or remove them"
        )
    with report_write_errors(output, "choose another --output"):
        output.mkdir(parents=True, exist_ok=True)
        total = sum(member.size for members in plan.shards.values() for member in members)
        shards = []
        with Progress("writing shards", total, "B") as progress:
            for name, members in plan.shards.items():
                path = output / name
                if not _is_written(path, members):
                    write_atomically(path, lambda file, members=members: _write(file, members))
                progress.advance(sum(member.size for member in members))
                shards.append(scan_shard(str(path), file_status(str(path))))
        write_index(str(output), shards)
        if cfg.TRAIN.DATASET not in KEEP_LISTS:
            for name, text in _lists(plan.records, next(iter(splits.values())).class_names):
                write_text_atomically(output / name, text)
    clips, size = sum(len(shard.names) for shard in shards), sum(shard.size for shard in shards)
    return Written(len(shards), clips, size, plan.missing)


def _find_splits(cfg: CfgNode) -> dict[str, DatasetSplit]:
    found, folds = {}, dict[str, DatasetSplit]()
    for split in SPLITS:
        try:
            found[split] = find_clips(cfg, split, folds)
        except MissingSplitError as error:
            problem = error
    if not found:
        raise problem
    return found


class _Plan(NamedTuple):
    """The files of each shard, the clips of each split, and clips that do not exist."""

    shards: dict[str, list[_Member]]
    records: dict[str, list[VideoRecord]]
    missing: list[str]


def _plan(splits: dict[str, DatasetSplit], max_bytes: int) -> _Plan:
    plan, repeated = _Plan({}, {}, []), []
    path_of: dict[str, str] = {}
    for split, found in splits.items():
        plan.records[split], groups = [], []
        for record in found.records:
            name = _name(record)
            if path_of.get(name, record.path) != record.path:
                name = f"{split}/{name}"
            if name not in path_of:
                members = _members(name, record)
                if not members:
                    plan.missing.append(record.path)
                    continue
                path_of[name] = record.path
                groups.append(members)
            elif path_of[name] != record.path:
                repeated.append(f"{name}: {path_of[name]} and {record.path}")
            plan.records[split].append(record)
        rows = (
            np.random.default_rng(_SEED).permutation(len(groups)).tolist() if split == "train" else range(len(groups))
        )
        for number, members in enumerate(_cut((groups[row] for row in rows), max_bytes)):
            plan.shards[f"{split}-{number:06d}.tar"] = members
    if repeated:
        raise join_problems("clips that would have the same name in the shards", repeated, "rename one of them")
    if not plan.shards:
        raise join_problems("no clip exists", plan.missing, "check DATA.PATH_PREFIX")
    return plan


def _name(record: VideoRecord) -> str:
    """The name of a clip in the shards: what lists call it, with the extension of the file."""
    name = clip_name(record.name)
    if _frames(record) is not None:
        return stem(name)
    extension = os.path.splitext(record.path)[1]
    return name if name.endswith(extension) else stem(name) + extension


def _members(name: str, record: VideoRecord) -> list[_Member]:
    """The files of a clip; empty if it does not exist."""
    if ShardFile.parse(record.path):
        raise DataError(f"{record.path} is in a shard: write shards from the files")
    if "\n" in record.name:
        raise DataError(f"{record.path} has a line break in its name: rename it")
    frames = _frames(record)
    files = {name: record.path} if frames is None else {f"{name}/{os.path.basename(path)}": path for path in frames}
    if frames is None and not is_video_name(name):
        raise DataError(f"{record.path}: its extension is not that of a video (docs/data.md): rename it")
    members = []
    for target, path in files.items():
        try:
            status = os.stat(path)
        except OSError:
            return []
        members.append(_Member(target, status.st_size, int(status.st_mtime), path))
    label = str(record.label).encode()
    return [*members, _Member(stem(name) + _LABEL, len(label), 0, content=label)] if members else []


def _frames(record: VideoRecord) -> Sequence[str] | None:
    """The files of a clip of frames; None if it is a video."""
    if os.path.isdir(record.path):
        return frame_files(record.path)
    return numbered_frames(record.path)


def _lists(records: Mapping[str, list[VideoRecord]], class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and texts of lists: of classes and videos if the names are `<class>/<video>`, else of paths and labels.

    Lists of paths and labels have the class names in classes.txt, unless they are the labels.
    """
    have_classes = list(class_names) == sorted(class_names) and all(
        record.name.startswith(f"{class_names[record.label]}/") for found in records.values() for record in found
    )
    for split, found in records.items():
        text = io.StringIO()
        if have_classes:
            rows = ((class_names[record.label], record.name.partition("/")[2]) for record in found)
            csv.writer(text, lineterminator="\n").writerows([CSV_HEADER, *rows])
        else:
            text.writelines(f"{record.name} {record.label}\n" for record in found)
        yield f"{split}.csv", text.getvalue()
    if not have_classes and list(class_names) != [str(label) for label in range(len(class_names))]:
        yield "classes.txt", "".join(f"{name}\n" for name in class_names)


def _cut(clips: Iterable[list[_Member]], max_bytes: int) -> Iterator[list[_Member]]:
    """The files of each shard: clips in order, as long as they fit."""
    members: list[_Member] = []
    size = 0
    for clip in clips:
        added = sum(member.bytes() for member in clip)
        if members and size + added > max_bytes:
            yield members
            members, size = [], 0
        members += clip
        size += added
    if members:
        yield members


def _is_written(path: Path, members: list[_Member]) -> bool:
    """Whether a complete shard has exactly these files."""
    try:
        with tarfile.open(path) as archive:
            found = [(member.name, member.size, member.mtime, _label(archive, member)) for member in archive]
    except (OSError, tarfile.TarError):
        return False
    return found == [(member.name, member.size, member.mtime, member.content) for member in members]


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a label; empty for other files."""
    file = archive.extractfile(member) if member.name.endswith(_LABEL) else None
    return file.read() if file else b""


def _write(file: BinaryIO, members: list[_Member]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if not member.source:
                archive.addfile(member.header(), io.BytesIO(member.content))
                continue
            with _SourceFile(member.source) as source:
                archive.addfile(member.header(), source)


class _SourceFile:
    """A file that is copied into a shard; a context manager. DataError, which names it, if it cannot be read."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> "_SourceFile":
        with self._errors():
            self._file = open(self._path, "rb")  # closed at the end
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        with self._errors():
            content = self._file.read(size)
        if len(content) < size:
            raise DataError(f"{self._path} became shorter while it was copied: {_AGAIN}")
        return content

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}; copy it again, then {_AGAIN}") from error
