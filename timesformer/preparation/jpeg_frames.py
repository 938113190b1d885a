"""One clip to a folder of JPEG images, one for each frame: quick to read in any order, and large."""

import os
import shutil
from pathlib import Path

from PIL import Image

from timesformer.datasets.decoding.open import VideoError, frame_files, open_video
from timesformer.preparation.convert import Job


def extract_frames(job: Job) -> None:
    """Write every frame of `job.source` to the folder `job.target` as 000001.jpg, 000002.jpg, ...

    They are scaled down to `job.short_side` (0: left as they are) and have the JPEG quality `job.quality`. The folder
    appears under its name when all are there. Raises VideoError where the source cannot be read.
    """
    target = Path(job.target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with open_video(job.source) as video:
            for number, frame in enumerate(video.frames(), start=1):
                image = Image.fromarray(frame)
                short = min(image.size)
                if job.short_side and short > job.short_side:
                    size = (round(side * job.short_side / short) for side in image.size)
                    image = image.resize(tuple(size), Image.Resampling.BICUBIC)
                image.save(partial / f"{number:06d}.jpg", quality=job.quality)
            if len(frame_files(partial)) != video.num_frames:
                raise VideoError(f"{job.source}: {len(frame_files(partial))} of {video.num_frames} frames were written")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
