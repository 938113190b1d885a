"""Reading exported models: ONNX, OpenVINO and torch.export files with the metadata that `timesformer export` adds.

Such a file has the graph of a model that takes uint8 clips and normalizes them. `ExportedNetwork` is a module that
computes it, with the library that belongs to the format, on the CPU.
"""

import hashlib
import json
import math
import mmap
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.weights.files import CheckpointError
from timesformer.quiet import quiet

if TYPE_CHECKING:
    import openvino

Compute = Callable[[np.ndarray], np.ndarray]
"""Clips, uint8 [batch, 3, frames, height, width], to logits, float32 [batch, classes]."""

METADATA_KEY = "timesformer"
"""The key of the metadata, a JSON object, in the file; docs/deployment.md describes its entries."""
TORCH_ENTRY = f"{METADATA_KEY}.json"
"""Its name in a torch.export file, which is a ZIP archive."""
_PLACE_IN_SOURCE = re.compile(r"(Exception from|Check '[^\n]*?' failed at) src/\S+:\d+:\s*")
_OLDEST_IR = 10  # version of the files that OpenVINO reads
CONTENT_DIGEST, NO_DIGEST = "content_sha256", "0" * 64
"""The key of the SHA-256 of an ONNX or OpenVINO file in its metadata, and what it replaces, see `content_digest`."""
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
"""The formats, and the extensions of their files; `.xml` has its weights in a file `.bin`."""


class ExportedNetwork(nn.Module):
    """An exported model: clips, uint8 [batch, 3, frames, height, width], to logits, float32 [batch, classes].

    The file `path` has `metadata`; `digest`, uint8 [32], is the SHA-256 of its content. Clips of another shape, or that
    are not uint8, raise ValueError.
    """

    includes_normalization = True

    def __init__(self, path: Path, metadata: dict[str, Any], digest: bytes, compute: Compute) -> None:
        super().__init__()
        self.path = path
        self.metadata = metadata
        self.shape: tuple[int | None, ...] = tuple(metadata["input"]["shape"])  # None: any batch
        self._compute = compute
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    @property
    def head_names(self) -> tuple[str, ...]:
        raise UserError(f"{self.path} gives logits only: use the checkpoint it was exported from for embeddings")

    def forward(self, clips: Tensor) -> Tensor:
        if clips.dtype != torch.uint8 or clips.shape[1:] != self.shape[1:]:
            found = f"{str(clips.dtype).removeprefix('torch.')} {list(clips.shape)}"
            raise ValueError(f"clips are {found}, expected uint8 [batch, {', '.join(map(str, self.shape[1:]))}]")
        parts = clips.cpu().split(self.shape[0] or max(1, len(clips)))
        logits = [torch.from_numpy(self._compute(np.ascontiguousarray(part.numpy()))) for part in parts]
        return torch.cat(logits).float().to(clips.device)

    def check(self, cfg: CfgNode) -> None:
        """Raises CheckpointError if `cfg` describes other clips or classes than those the graph was made for."""
        channels = "bgr" if cfg.DATA.REVERSE_INPUT_CHANNEL else "rgb"
        side = cfg.DATA.TEST_CROP_SIZE
        fixed = {
            "DATA.NUM_FRAMES": (cfg.DATA.NUM_FRAMES, self.shape[2]),
            "DATA.TEST_CROP_SIZE": ([side, side], list(self.shape[3:])),
            "DATA.REVERSE_INPUT_CHANNEL": (channels, self.metadata["input"]["channels"]),
            "DATA.MEAN": (list(cfg.DATA.MEAN), self.metadata["mean"]),
            "DATA.STD": (list(cfg.DATA.STD), self.metadata["std"]),
            "MODEL.NUM_CLASSES": (cfg.MODEL.NUM_CLASSES, len(self.metadata["class_names"])),
        }
        if changed := [f"{key} {wanted} (exported: {made})" for key, (wanted, made) in fixed.items() if wanted != made]:
            raise CheckpointError(
                f"{self.path} cannot be used with {', '.join(changed)}: leave these options out, or export again"
            )


def exported_format(path: Path) -> str | None:
    """The format of a file by its extension, None if it is no exported model."""
    return next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)


def read_exported(path: Path) -> ExportedNetwork:
    """Reads an exported model.

    Raises CheckpointError if the file is missing, damaged, or was not written by `timesformer export`, and UserError
    if its library is not installed.
    """
    weights = path
    if exported_format(path) == "openvino" and path.is_file():
        weights, size = path.with_suffix(".bin"), _bytes_of_weights(path)
        if weights.is_file() and (found := weights.stat().st_size) < size:
            raise CheckpointError(
                f"{weights} has {found} bytes, expected at least {size}: copy or export both files again"
            )
    if weights.is_dir():
        raise CheckpointError(f"{weights} is a folder, expected a file of `timesformer export`: give its path")
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing: export the model again, or give the path of another file")
    digest = digest_of(path)
    sidecar = _read_sidecar(path)
    if sidecar.get("sha256", digest.hex()) != digest.hex():
        raise CheckpointError(
            f"{path} is damaged, or was replaced: its SHA-256 differs from that in {sidecar_path(path).name}; export "
            "or copy it again"
        )
    opened = {"onnx": open_onnx, "openvino": open_openvino, "torch-export": _open_torch}[exported_format(path)]
    try:
        text, compute = opened(path, str(path))
    except UserError:
        raise
    except Exception as error:  # of any type, depending on the library
        reason = " ".join(_PLACE_IN_SOURCE.sub("", str(error)).split())[:300] or type(error).__name__
        raise CheckpointError(f"{path} is damaged, or no exported model: {reason}; export or copy it again") from error
    metadata = _parse(path, text)
    if "sha256" not in sidecar and not _is_intact(path, metadata):
        raise CheckpointError(f"{path} is damaged: its content has another checksum; export or copy it again")
    return ExportedNetwork(path, metadata, digest, compute)


def sidecar_path(path: Path) -> Path:
    """The JSON file with the metadata, next to an exported model."""
    return path.with_name(path.name + ".json")


def files_of(path: Path) -> list[Path]:
    """The files of an exported model without its sidecar: `path`, and for OpenVINO that of the weights."""
    return [path, path.with_suffix(".bin")] if path.suffix == FORMATS["openvino"] else [path]


def digest_of(path: Path) -> bytes:
    """The SHA-256 of the files of an exported model, one after the other."""
    digest = hashlib.sha256()
    for part in files_of(path):
        _add_file(digest, part)
    return digest.digest()


def content_digest(content: bytes | mmap.mmap, recorded: str, weights: Path | None = None) -> str:
    """The SHA-256 of an ONNX or OpenVINO file and the file of its weights, with zeros in place of `recorded`.

    `recorded` is the last entry of the metadata in `content`, `CONTENT_DIGEST`. Returns 64 hexadecimal digits.
    """
    place = content.rfind(recorded.encode())
    with memoryview(content) as view:
        digest = hashlib.sha256(view[:place])
        digest.update(NO_DIGEST.encode())
        digest.update(view[place + len(recorded) :])
    if weights:
        _add_file(digest, weights)
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)


def _is_intact(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether the content of an exported model is what was written, by the checksums within the file."""
    if path.suffix == FORMATS["torch-export"]:
        with suppress(BadZipFile), ZipFile(path) as archive:
            return archive.testzip() is None
        return False
    recorded, (_, *weights) = str(metadata.get(CONTENT_DIGEST, "")), files_of(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content_digest(content, recorded, *weights) == recorded


def _bytes_of_weights(path: Path) -> int:
    """The least size of the file of the weights of an OpenVINO model; CheckpointError if `path` is no such model.

    OpenVINO tries the formats of other libraries for an XML file that is none, and prints their messages.
    """
    what, size, is_model = "an OpenVINO model (.xml) of `timesformer export`", 0, False
    try:
        for _, element in ElementTree.iterparse(path, ("start",)):
            if not is_model:
                version = element.get("version", "")
                is_model = element.tag == "net" and version.isdecimal() and int(version) >= _OLDEST_IR
                if not is_model:
                    found = f"<{element.tag}{f' version={version!r}' if version else ''}>"
                    expected = f"<net> of version {_OLDEST_IR} or later"
                    raise CheckpointError(f"{path} starts with {found}, expected {what}, {expected}: give another file")
            elif element.tag == "data" and "offset" in element.attrib:
                size = max(size, int(element.get("offset", "")) + int(element.get("size", "")))
    except (ElementTree.ParseError, ValueError) as error:
        if is_model:
            raise CheckpointError(f"{path} is damaged ({error}): copy or export it again") from error
        with path.open("rb") as file:
            head = file.read(16)
        found = f"starts with {head!r}" if head else "is empty"
        raise CheckpointError(f"{path} {found}, expected {what}: give another file") from error
    return size


def _read_sidecar(path: Path) -> dict[str, Any]:
    """The content of the sidecar, {} if there is none: the file itself has the metadata."""
    sidecar, content = sidecar_path(path), None
    if not sidecar.exists():
        return {}
    with suppress(OSError, ValueError):
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(f"{sidecar} is damaged, or no sidecar of {path.name}: delete it, or copy it again")
    return content


def _parse(path: Path, text: str | None) -> dict[str, Any]:
    """The metadata, if the entries that are read have the expected types."""
    try:
        metadata = json.loads(text or "")
        shape, names = metadata["input"]["shape"], metadata["class_names"]
        sizes = [*shape[1:], *([] if shape[0] is None else shape[:1])]
        is_valid = len(shape) == 5 and all(isinstance(size, int) and size > 0 for size in sizes)
        is_valid = is_valid and isinstance(names, list) and isinstance(metadata["cfg"], str)
        is_valid = is_valid and all(math.isfinite(number) for number in (*metadata["mean"], *metadata["std"]))
        is_valid = is_valid and metadata["input"]["channels"] in ("rgb", "bgr")
        is_valid = is_valid and isinstance(metadata["parameters"], int)
    except (ValueError, KeyError, TypeError):
        is_valid = False
    if not is_valid:
        found = "has none" if not text else "has incomplete metadata"
        raise CheckpointError(
            f"{path} was not written by this version of `timesformer export`, whose metadata it needs (it {found}): "
            "export the checkpoint"
        )
    return metadata


def import_library(name: str, needed_by: str, extra: str) -> ModuleType:
    """Imports a module of an optional library; UserError with the extra to install if it is missing.

    OpenVINO and NNCF do without their telemetry, which would fork this process and connect to a server on the internet.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        with quiet():  # some warn of what a new version of torch deprecates
            return import_module(name)
    except ImportError as error:
        raise UserError(f"{needed_by} needs {name} ({error}): pip install '.[{extra}]' in a checkout") from error


def open_onnx(model: Path | bytes, needed_by: str) -> tuple[str | None, Compute]:
    """The metadata of an ONNX file, or of its content, and its computation by ONNX Runtime."""
    runtime = import_library("onnxruntime", needed_by, "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return text, lambda clips: session.run(None, {name: clips})[0]


def open_openvino(model: "Path | openvino.Model", needed_by: str) -> tuple[str | None, Compute]:
    """The metadata of an OpenVINO file or model, and its computation by OpenVINO."""
    library = import_library("openvino", needed_by, "openvino")
    model = library.Core().read_model(model) if isinstance(model, Path) else model
    text = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None
    # float32 is exact; some processors would compute in bfloat16
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = library.compile_model(model, "CPU", options)
    return text, lambda clips: compiled(clips)[0]


def _open_torch(path: Path, needed_by: str) -> tuple[str | None, Compute]:
    entries = {TORCH_ENTRY: ""}
    with quiet():
        network = torch.export.load(path, extra_files=entries).module()

    @torch.no_grad()
    def compute(clips: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(clips)).numpy()

    return entries[TORCH_ENTRY] or None, compute
