"""Writing exported models: ONNX, OpenVINO or torch.export files with their metadata, and a sidecar."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.errors import UserError
from timesformer.export.program import INPUT, OUTPUT, conversion_errors
from timesformer.models.weights.exported import METADATA_KEY, TORCH_ENTRY, digest_of, import_library, sidecar_path
from timesformer.quiet import quiet

if TYPE_CHECKING:
    import onnx
    import openvino

REMEDY = "choose another --output"
LARGEST_ONNX = 2**31 - 1  # bytes of a protobuf message


def save_onnx(model: "onnx.ModelProto", path: Path, metadata: dict[str, Any]) -> None:
    """Writes an ONNX model and its sidecar; UserError if it is larger than `LARGEST_ONNX`, or WriteError."""
    if (size := model.ByteSize()) > LARGEST_ONNX:
        raise UserError(f"{path} would have {size / 1e9:.1f} GB, an ONNX file at most 2.1: use --half or --to openvino")
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    model.producer_name = "timesformer"
    _write(path, lambda file: file.write(model.SerializeToString()))
    _write_sidecar(path, metadata)


def save_openvino(model: "openvino.Model", path: Path, metadata: dict[str, Any], half: bool = False) -> None:
    """Writes an OpenVINO model, `.xml` and `.bin`, and its sidecar; `half` stores float16 weights. Or WriteError."""
    openvino = import_library("openvino", "--to openvino", "openvino")
    model.set_rt_info(json.dumps(metadata), METADATA_KEY)
    with report_write_errors(path, REMEDY), TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, "model.xml")
        openvino.save_model(model, made, compress_to_fp16=half)
        for suffix in (".bin", ".xml"):
            with made.with_suffix(suffix).open("rb") as source:
                _write(path.with_suffix(suffix), lambda file, source=source: shutil.copyfileobj(source, file))
    _write_sidecar(path, metadata)


def save_torch(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a program of torch.export and its sidecar, or raises WriteError."""
    with quiet():
        _write(path, lambda file: torch.export.save(program, file, extra_files={TORCH_ENTRY: json.dumps(metadata)}))
    _write_sidecar(path, metadata)


def to_openvino(program: torch.export.ExportedProgram) -> "openvino.Model":
    """The OpenVINO model of a program of torch.export; UserError if the library is missing."""
    openvino = import_library("openvino", "--to openvino", "openvino")
    with quiet(), conversion_errors("its conversion to OpenVINO"):
        model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return model


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with report_write_errors(path, REMEDY):
        write_atomically(path, write)


def _write_sidecar(path: Path, metadata: dict[str, Any]) -> None:
    content = metadata | {"sha256": digest_of(path).hex()}
    write_text_atomically(sidecar_path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
