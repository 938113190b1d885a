"""How long the clips of a split are."""

import os
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from timesformer.datasets.decoding.base import VideoError
from timesformer.datasets.decoding.images import FrameFiles, frame_files, numbered_frames
from timesformer.datasets.decoding.packet_source import DECODE_ERRORS, open_container
from timesformer.datasets.decoding.shards import ShardFile
from timesformer.datasets.manifest import known_video
from timesformer.datasets.records import VideoRecord

_SAMPLED = 31  # clips, whose median differs little from that of all


def median_seconds(records: Sequence[VideoRecord], frame_rate: float) -> float:
    """Return the median length in seconds of clips that are spread evenly over the records; 0.0 if it is unknown.

    Lengths are those of the manifest, or else of the headers of files. `frame_rate` is that of folders of frames; those
    in tar shards are left out.
    """
    numbers = np.unique(np.linspace(0, len(records) - 1, min(_SAMPLED, len(records))).round().astype(int)).tolist()
    lengths = [seconds for number in numbers for seconds in _seconds(records[number], frame_rate) if seconds > 0]
    return statistics.median(lengths) if lengths else 0.0


def _seconds(record: VideoRecord, frame_rate: float) -> Iterator[float]:
    """The length of a clip; nothing if it is unknown."""
    try:
        video, num_frames, fps = known_video(record)
        if num_frames and fps:
            yield num_frames / fps
        elif isinstance(video, FrameFiles):
            yield video.num_frames / frame_rate
        elif frames := numbered_frames(record.path):
            yield len(frames) / frame_rate
        elif os.path.isdir(record.path):
            yield len(frame_files(record.path)) / frame_rate
        else:
            part = ShardFile.parse(record.path)
            with open_container(record.path, part if part and part.is_video else None) as container:
                yield (container.duration or 0) / 1e6
    except (*DECODE_ERRORS, VideoError):
        return
