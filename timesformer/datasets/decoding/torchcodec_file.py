"""Frames of a video file by torchcodec, with the checks of PyAV's reader and its table of which frame is which."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torchcodec.decoders import VideoDecoder

from timesformer.datasets.decoding.base import scaled
from timesformer.datasets.decoding.orientation import UPRIGHT
from timesformer.datasets.decoding.pyav import BROADCAST, INTERLACED, UnexpectedFrame, VideoFile, orientation_of


class TorchcodecFile(VideoFile):
    """A clip in a video container, decoded by torchcodec where its frames are those that PyAV gives.

    Left to PyAV are frames that are to be scaled, turned or flipped, are interlaced or have more than 8 bits, which
    torchcodec converts in another way, MPEG-TS, in which it does not find key frames, and files that it refuses, or of
    which it gives other frames than those asked for: the times of its frames tell.
    """

    _torchcodec: VideoDecoder | None = None
    _left_to_pyav = False

    def close(self) -> None:
        self._torchcodec = None
        super().close()

    def _jump(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not self._left_to_pyav:
            try:
                pictures = self._by_torchcodec(wanted)
            # RuntimeError as a rule, but also what its checks of arguments raise; PyAV finds out what is wrong.
            except Exception:
                self._left_to_pyav = True
            else:
                yield from zip(wanted, pictures, strict=True)
                return
        yield from super()._jump(wanted)

    def _by_torchcodec(self, wanted: Sequence[int]) -> np.ndarray:
        if self._torchcodec is None:
            self._torchcodec = self._open_torchcodec()
        batch = self._torchcodec.get_frames_at(list(wanted))
        times = torch.round(batch.pts_seconds / float(self._time_base)).tolist()
        if times != [self._table.time_of(number) for number in wanted]:
            raise UnexpectedFrame(f"frames {list(wanted)} have times {times}")
        if batch.data.shape[1:3] != self._coded_size[::-1]:
            raise UnexpectedFrame("their size is not that of the first frame")
        return batch.data.numpy()

    def _open_torchcodec(self) -> VideoDecoder:
        if self._format == BROADCAST:
            raise UnexpectedFrame("MPEG-TS has no index of key frames")
        decoder, size = self._decoder, self._coded_size
        _, first = next(self._from_start([0]))
        interlaced = getattr(decoder, "field_order", 0) >= INTERLACED  # PyAV has it from 18 on
        changed = scaled(*size, self._short_side) != size or orientation_of(first) != UPRIGHT
        if interlaced or changed or any(c.bits > 8 for c in decoder.format.components):
            raise UnexpectedFrame("frames that torchcodec converts in another way")
        frames = [
            {"pts": self._table.time_of(number), "duration": 0, "key_frame": int(self._table.is_key(number))}
            for number in range(self._table.num_frames)
        ]
        return VideoDecoder(
            self.path,
            stream_index=self._stream_index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            custom_frame_mappings=json.dumps({"frames": frames}),
        )
