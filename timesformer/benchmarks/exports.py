"""A model in the formats of `timesformer export`, and in PyTorch by this project and Hugging Face: time and error."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import CPU, describe_machine, time_in_turn
from timesformer.benchmarks.training import HUGGING_FACE, OURS, Size, build_models, logits_of
from timesformer.config import get_cfg
from timesformer.datasets.transforms.spatial import tensor_normalize
from timesformer.errors import counted
from timesformer.export.clips import ClipSet, generate_clips
from timesformer.export.exporting import check_libraries
from timesformer.export.files import save_onnx, save_openvino, to_openvino
from timesformer.export.metadata import make_metadata
from timesformer.export.onnx_graph import to_onnx
from timesformer.export.processor import describe_processor
from timesformer.export.program import exportable, layer_names, make_program
from timesformer.export.quantizers import OnnxQuantizer, OpenVinoQuantizer
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models.weights.exported import files_of
from timesformer.progress import Progress

Compute = Callable[[Tensor], Tensor]
_LIBRARIES = ("onnxruntime", "openvino", "nncf", "transformers")


def export_table(size: Size, rounds: int, threads: int, nncf: bool, folder: Path) -> Iterator[str]:
    """Table with a row for each format: seconds per clip, one at a time and in turn, on the CPU.

    The weights are random. With `nncf`, OpenVINO int8 too, which takes long to make. int8 has all layers in int8.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    models = build_models(size, CPU)
    classifier = _classifier(models[OURS].eval(), size)
    clips = generate_clips(classifier, 2)
    runs = {f"PyTorch, {HUGGING_FACE}": partial(_normalized, models[HUGGING_FACE].eval(), classifier)}
    runs[f"PyTorch, {OURS}"] = partial(_compute, classifier)
    made: dict[str, tuple[Path, float]] = {}
    with Progress("exporting", 4 if nncf else 3, "file") as progress:
        for name, path, seconds in _export(classifier, clips, nncf, folder):
            made[name] = path, seconds
            runs[name] = partial(_compute, load_model(path))
            gc.collect()
            progress.advance()
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    caption = (
        f"{describe_machine(CPU)}, {versions}; {describe_processor()}. {size}, {counted(size.depth, 'block')} of width "
        f"{size.width}, random weights, median of {counted(rounds, 'round')} in turn."
    )
    columns = ["", "seconds per clip", "file (MB)", "largest difference of a logit", "seconds to export"]
    yield from header(caption, columns)
    expected = runs[f"PyTorch, {OURS}"](clips.clips)
    differences = {name: (run(clips.clips) - expected).abs().max().item() for name, run in runs.items()}
    clip = clips.clips[:1]
    times = time_in_turn({name: partial(run, clip) for name, run in runs.items()}, rounds)
    for name in runs:
        cells = ["", f"{differences[name]:.1g}", ""]
        if name in made:
            path, seconds = made[name]
            cells = [f"{sum(file.stat().st_size for file in files_of(path)) / 1e6:.0f}", cells[1], f"{seconds:.0f}"]
        yield row([name, f"{statistics.median(times[name]):.2f}", *cells])


def _classifier(model: nn.Module, size: Size) -> Classifier:
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = "TimeSformer", 400
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = size.frames, size.crop, size.crop
    cfg.TIMESFORMER.ATTENTION_TYPE = size.attention_type
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = size.width, size.depth, size.heads
    names = tuple(f"class {number}" for number in range(400))
    return Classifier(cfg, model, names, CPU, "random.pyth", [])


def _export(classifier: Classifier, clips: ClipSet, nncf: bool, folder: Path) -> Iterator[tuple[str, Path, float]]:
    """Names, files and the seconds that each took."""
    for to in ("onnx", "openvino"):
        check_libraries(to, "static" if nncf else "")
    start = time.perf_counter()
    program = make_program(exportable(classifier), tuple(clips.clips.shape[1:]), dynamic_batch=False)
    tracing = time.perf_counter() - start
    metadata = partial(make_metadata, classifier, dynamic_batch=False)

    start = time.perf_counter()
    graph = to_onnx(program)
    save_onnx(graph, path := folder / "float.onnx", metadata("float32"))
    yield "ONNX Runtime", path, tracing + time.perf_counter() - start
    start = time.perf_counter()
    quantized = OnnxQuantizer(graph, path := folder / "int8.onnx", "dynamic", clips).quantize(())
    quantized.save(metadata("int8"))
    del quantized, graph
    yield "ONNX Runtime, dynamic int8", path, time.perf_counter() - start
    start = time.perf_counter()
    model = to_openvino(program)
    save_openvino(model, path := folder / "float.xml", metadata("float32"))
    yield "OpenVINO", path, tracing + time.perf_counter() - start
    if nncf:
        start = time.perf_counter()
        quantizer = OpenVinoQuantizer(model, path := folder / "int8.xml", layer_names(program), clips)
        quantizer.quantize(()).save(metadata("int8"))
        yield "OpenVINO, int8 (NNCF)", path, time.perf_counter() - start


def _compute(classifier: Classifier, clips: Tensor) -> Tensor:
    return torch.cat([classifier.compute(clip[None])[0] for clip in clips])


@torch.inference_mode()
def _normalized(model: nn.Module, classifier: Classifier, clips: Tensor) -> Tensor:
    data = classifier.cfg.DATA
    return torch.cat([logits_of(model, tensor_normalize(clip[None], data.MEAN, data.STD)) for clip in clips])
