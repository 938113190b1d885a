"""Exporting a checkpoint: from its model to a checked file."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from timesformer.errors import UserError
from timesformer.export.check import Check, compare, logits_of_clips, read_checks, save_check
from timesformer.export.clips import ClipSet, generate_clips, read_clips
from timesformer.export.files import save_onnx, save_openvino, save_torch, to_openvino
from timesformer.export.int8 import Int8Choice, Quantizer, choose_layers
from timesformer.export.metadata import make_metadata
from timesformer.export.onnx_graph import store_in_half, to_onnx
from timesformer.export.program import HalfWeights, exportable, layer_names, make_program
from timesformer.export.quantizers import OnnxQuantizer, OpenVinoQuantizer
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models.weights.exported import FORMATS, exported_format, files_of, import_library, sidecar_path

MOST_CALIBRATION_CLIPS = 64
_LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch-export": ()}


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported."""

    half: bool = False  # weights in float16
    dynamic_batch: bool = False  # any number of clips at once; else one
    license: str = ""  # of the weights
    int8: str = ""  # "dynamic", "static" or "auto", see `export_int8`; "": float


def load_for_export(
    checkpoint: str, opts: Sequence[str] = (), cfg: Path | None = None, device: str = "cpu"
) -> Classifier:
    """Loads a checkpoint, computed in float32; UserError if it is an exported model."""
    classifier = load_model(checkpoint, device, [*opts, "TRAIN.MIXED_PRECISION", "off"], cfg=cfg)
    if exported_format(Path(classifier.path)):
        raise UserError(f"{checkpoint} is an exported model: give the checkpoint that it was exported from")
    return classifier


def check_libraries(to: str, int8: str = "") -> None:
    """Raises UserError if a library that writes the format is missing."""
    for name in (*_LIBRARIES[to], *(["nncf"] if int8 and to == "openvino" else [])):
        import_library(name, f"--to {to}", to)


def check_output(path: Path, to: str, options: ExportOptions, overwrite: bool = False) -> None:
    """Checks a path before the work, and imports the libraries that write the format `to`.

    Raises UserError if `path` has another extension than that of the format, exists although not `overwrite`, its
    folder does not exist or has an export.json of another program, a library is missing, or the format does not have
    the options.
    """
    if options.int8 and to == "torch-export":
        raise UserError("--int8 needs --to onnx or --to openvino")
    if options.int8 == "dynamic" and to == "openvino":
        raise UserError("--int8 dynamic needs --to onnx: OpenVINO is static")
    if options.int8 and options.half:
        raise UserError("--int8 and --half exclude each other")
    check_libraries(to, options.int8)
    if path.suffix != FORMATS[to]:
        raise UserError(f"--output {path}: expected a name that ends in {FORMATS[to]}, for --to {to}")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: its folder does not exist")
    if existing := [file for file in (*files_of(path), sidecar_path(path)) if file.exists() and not overwrite]:
        raise UserError(f"{existing[0]} exists: choose another --output, or give --overwrite")
    read_checks(path)


def export(classifier: Classifier, path: Path, options: ExportOptions) -> None:
    """Writes the model in the format of the extension of `path`, see `FORMATS`.

    Raises UserError if the model cannot be exported or a library is missing, and WriteError.
    """
    to = exported_format(path)
    metadata = make_metadata(
        classifier, "float16" if options.half else "float32", options.dynamic_batch, options.license
    )
    model = exportable(classifier)
    if options.half and to == "torch-export":
        model = HalfWeights(model)
    program = make_program(model, metadata["input"]["shape"][1:], options.dynamic_batch)
    if to == "onnx":
        graph = to_onnx(program)
        if options.half:
            store_in_half(graph)
        save_onnx(graph, path, metadata)
    elif to == "openvino":
        save_openvino(to_openvino(program), path, metadata, options.half)
    else:
        save_torch(program, path, metadata)


def export_int8(classifier: Classifier, path: Path, options: ExportOptions, calibration: ClipSet) -> Int8Choice:
    """Writes the model in int8, ONNX or OpenVINO; which layers stay in float, see `choose_layers`.

    `options.int8` is "dynamic" or "static" for ONNX Runtime, or "auto": static if dynamic is not close enough. OpenVINO
    is static. Raises as `export`.
    """
    metadata = make_metadata(classifier, "int8", options.dynamic_batch, options.license)
    program = make_program(exportable(classifier), metadata["input"]["shape"][1:], options.dynamic_batch)
    quantizers: list[Quantizer]
    if exported_format(path) == "openvino":
        quantizers = [OpenVinoQuantizer(to_openvino(program), path, layer_names(program), calibration)]
    else:
        graph = to_onnx(program)
        methods = ("dynamic", "static") if options.int8 == "auto" else (options.int8,)
        quantizers = [OnnxQuantizer(graph, path, method, calibration) for method in methods]
    quantized, choice = choose_layers(quantizers, logits_of_clips(classifier, calibration), calibration)
    quantized.save(metadata | {"int8": {"method": choice.chosen.method, "float": list(choice.chosen.float_kinds)}})
    return choice


def export_and_check(
    classifier: Classifier,
    path: Path,
    options: ExportOptions,
    folder: Path | None = None,
    calibration: Path | None = None,
    rounds: int = 5,
) -> tuple[list[str], Check, Path]:
    """Exports a model, loads the file and compares it with the model; see `export`, `export_int8` and `compare`.

    Returns lines about int8, the results, and the file that has them. The clips are those of the videos in `folder`,
    else of `calibration`, from which int8 is calibrated, else generated.
    """
    # before the slow part
    calibrated = read_clips(classifier, calibration, MOST_CALIBRATION_CLIPS) if calibration else None
    clips = read_clips(classifier, folder) if folder else calibrated or generate_clips(classifier)
    start, choice = time.perf_counter(), None
    if options.int8:
        choice = export_int8(classifier, path, options, calibrated or clips)
    else:
        export(classifier, path, options)
    seconds = time.perf_counter() - start
    check = compare(classifier, load_model(path), path, clips, rounds)
    details = {"checkpoint": str(classifier.path), "options": asdict(options), "export_seconds": round(seconds, 1)}
    details |= {"int8": asdict(choice)} if choice else {}
    file = save_check(path, check, details | {"versions": library_versions(exported_format(path))})
    return choice.lines() if choice else [], check, file


def library_versions(to: str) -> dict[str, str]:
    """The versions of the libraries that write and compute the format, by name."""
    return {name: version(name) for name in ("torch", *_LIBRARIES[to])}
