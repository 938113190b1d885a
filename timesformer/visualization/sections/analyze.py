"""Computes what the sections of `sections.analysis` show, from the checkpoint and videos of a tested run."""

import io
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from timesformer.analysis.analysis_folder import begin_analysis
from timesformer.analysis.clip_properties import ClipProperties, measure_clips, write_properties
from timesformer.analysis.embedding import MAX_CLIPS, EmbeddingRecorder, choose_clips, write_embedding
from timesformer.analysis.revealed_frames import reveal_frames, summarize, write_revealed
from timesformer.analysis.tested_model import load_tested
from timesformer.datasets.catalog import Splits
from timesformer.datasets.clips import SampledClip
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier
from timesformer.progress import Progress
from timesformer.visualization.attention import attention_maps, find_transformer, overlay, record_clip
from timesformer.visualization.examples import Strip, load_clips, make_strip, write_strips
from timesformer.visualization.run_files import read_run
from timesformer.visualization.sections.attention import ATTENTION, weakest_classes
from timesformer.visualization.sections.revealed import FRAMES, revealed_examples

logger = logging.getLogger(__name__)

PARTS = ("clips", "embedding", "revealed", "attention")
_MIN_SIDE, _GAP = 96, 4  # pixels of a frame with attention; between the rows of a picture


def analyze_run(
    folder: Path,
    parts: Collection[str] = PARTS,
    most_clips: int = MAX_CLIPS,
    checkpoint: str | None = None,
    device: str | None = None,
    opts: Sequence[str] = (),
) -> None:
    """Writes the files of these parts for a tested run, from its checkpoint and videos.

    Raises UserError if the folder has no results with predictions, and as `load_tested`.
    """
    run = read_run(folder)
    if run.predictions is None:
        raise UserError(f"{folder} has no results.json with predictions.csv: test the run first")
    classifier = load_tested(run.results, checkpoint, device, opts)
    for note in classifier.notes:
        logger.info("note: %s", note)
    splits = Splits(classifier.cfg)
    if set(splits["test"].records.names) != set(run.predictions.videos):
        raise UserError("the test set has other videos than those in predictions.csv: set DATA.PATH_TO_DATA_DIR")
    output = begin_analysis(folder, run.results)
    if "clips" in parts or "embedding" in parts:
        _measure(classifier, splits, output, parts, most_clips)
    videos, predictions = run.predictions.videos, run.predictions
    if "revealed" in parts:
        numbers = {videos[number]: number for number in revealed_examples(predictions)}
        clips = dict(load_clips(classifier.cfg, numbers, splits))
        revealed = []
        for video, number in numbers.items():
            if video in clips:
                classes = int(predictions.labels[number]), int(predictions.classes[number, 0])
                revealed.append(summarize(video, *classes, reveal_frames(classifier, clips[video])))
        write_revealed(output, revealed)
        write_strips(output / FRAMES, {name: make_strip(clip) for name, clip in clips.items()})
    if "attention" in parts:
        try:
            find_transformer(classifier.model)
        except UserError as error:
            logger.info("no attention maps: %s", error)
        else:
            numbers = [n for weak in weakest_classes(run) for n in (*weak.incorrect, *weak.correct)]
            clips = load_clips(classifier.cfg, [videos[number] for number in numbers], splits)
            write_strips(output / ATTENTION, {name: draw_attention(classifier, clip) for name, clip in clips})


def _measure(classifier: Classifier, splits: Splits, output: Path, parts: Collection[str], most_clips: int) -> None:
    """Writes the properties of all clips, and the map of some, in one pass."""
    cfg, found = classifier.cfg, splits["test"]
    readable = [name for number, name in enumerate(found.records.names) if number not in found.records.problems]
    chosen = choose_clips(readable, most_clips, cfg.RNG_SEED) if "embedding" in parts else set()
    recorder = EmbeddingRecorder(classifier, chosen, len(found.records))
    properties: dict[str, ClipProperties] = {}
    with Progress("reading clips", len(found.records), "clip") as progress:
        for clips, names, values in measure_clips(cfg, found):
            properties |= values
            recorder.add(clips, names)
            progress.advance(len(names))
    if "clips" in parts:
        write_properties(output, properties)
    if "embedding" in parts and (embedding := recorder.finish()):
        write_embedding(output, embedding)


def draw_attention(classifier: Classifier, clip: SampledClip) -> Strip:
    """Frames of a clip, and below them the same frames with attention rollout; UserError if it cannot be recorded."""
    frames = clip.frames
    maps = attention_maps(record_clip(classifier, clip), len(frames), "rollout")
    scale = -(-_MIN_SIDE // min(frames.shape[1:3]))  # patches of small frames stay visible
    enlarged = frames.repeat(max(scale, 1), axis=1).repeat(max(scale, 1), axis=2)
    rows = [make_strip(replace(clip, frames=shown)) for shown in (enlarged, overlay(enlarged, maps))]
    images = [Image.open(io.BytesIO(row.jpeg)) for row in rows]
    width, height = images[0].size
    picture, file = Image.new("RGB", (width, 2 * height + _GAP), "white"), io.BytesIO()
    for row, image in enumerate(images):
        picture.paste(image, (0, row * (height + _GAP)))
    picture.save(file, "JPEG", quality=82)
    return replace(rows[0], jpeg=file.getvalue())
