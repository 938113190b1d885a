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
from timesformer.models.weights.exported import (
    CONTENT_DIGEST,
    METADATA_KEY,
    NO_DIGEST,
    TORCH_ENTRY,
    content_digest,
    digest_of,
    import_library,
    sidecar_path,
)
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
    model.metadata_props.add(key=METADATA_KEY, value=_without_digest(metadata))
    model.producer_name = "timesformer"
    digest = _write_with_digest(path, model.SerializeToString())
    _write_sidecar(path, metadata | {CONTENT_DIGEST: digest})


def save_openvino(model: "openvino.Model", path: Path, metadata: dict[str, Any], half: bool = False) -> None:
    """Writes an OpenVINO model, `.xml` and `.bin`, and its sidecar; `half` stores float16 weights. Or WriteError."""
    openvino = import_library("openvino", "--to openvino", "openvino")
    model.set_rt_info(_without_digest(metadata), METADATA_KEY)
    with report_write_errors(path, REMEDY), TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, "model.xml")
        openvino.save_model(model, made, compress_to_fp16=half)
        with made.with_suffix(".bin").open("rb") as source:
            _write(path.with_suffix(".bin"), lambda file: shutil.copyfileobj(source, file))
        digest = _write_with_digest(path, made.read_bytes(), path.with_suffix(".bin"))
    _write_sidecar(path, metadata | {CONTENT_DIGEST: digest})


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


def _without_digest(metadata: dict[str, Any]) -> str:
    """The metadata as JSON, with a place for the digest as the last entry."""
    return json.dumps(metadata | {CONTENT_DIGEST: NO_DIGEST})


def _write_with_digest(path: Path, content: bytes, weights: Path | None = None) -> str:
    """Writes a file, with the digest of `content` and the file of the weights in its metadata; returns the digest."""
    digest, place = content_digest(content, NO_DIGEST, weights), content.rfind(NO_DIGEST.encode())
    parts = [memoryview(content)[:place], digest.encode(), memoryview(content)[place + len(digest) :]]
    _write(path, lambda file: file.writelines(parts))
    return digest


def _write_sidecar(path: Path, metadata: dict[str, Any]) -> None:
    content = metadata | {"sha256": digest_of(path).hex()}
    write_text_atomically(sidecar_path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
