"""Weights that an option names by URL, `zoo:`, `hf:` or `timm:`, fetched once into a folder on this machine.

Nothing here runs unless such a name is given. Files lie in $TIMESFORMER_CACHE (~/.cache/timesformer); those of the
hub in the cache of huggingface_hub.
"""

import hashlib
import logging
import os
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from timesformer.config.sources import ZOO, source_problem
from timesformer.fetch import DownloadError, fetch
from timesformer.models.weights.files import HUB_CONFIGS, has_hub_weights
from timesformer.runtime.run_folder import checkpoint_of_run

logger = logging.getLogger(__name__)

_HUB_FILES = (
    [*HUB_CONFIGS, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    [*HUB_CONFIGS, "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)
_OFFLINE = (
    "On a machine without network, fetch it elsewhere (tools/convert_checkpoint.py does) and give the path, or copy "
    "the folder $TIMESFORMER_CACHE"
)


def local_path(source: str | Path) -> Path:
    """Where the weights lie on this machine, fetched first if they are elsewhere and not here already.

    Args:
        source: as `timesformer.config.sources.source_problem` takes it; a path may begin with `~`.

    Returns:
        A file, or a folder in the layout of the Hugging Face hub; of the folder of a run its best checkpoint, else the
        newest (`checkpoint_of_run`). Other paths come back as they are, whether they exist or not.

    Raises:
        DownloadError: if the name makes no sense, the place cannot be reached or has no such file, or what comes is
            not what was asked for.
    """
    if isinstance(source, Path):
        return _in_run(source.expanduser())
    kind, colon, name = source.partition(":")
    if "://" not in source and not (colon and kind in ("zoo", "hf", "timm")):
        return _in_run(Path(source).expanduser())
    if problem := source_problem(source):
        raise DownloadError(f"{source} is no place to fetch weights from: {problem}")
    if "://" in source:
        return _fetch(source)
    if kind == "zoo":
        logger.info("%s: %s", name, ZOO[name].facts())
        return _fetch(ZOO[name].url)
    return _from_hub(f"timm/{name}" if kind == "timm" else name)


def cache_folder() -> Path:
    """Where downloads are kept: $TIMESFORMER_CACHE, else ~/.cache/timesformer."""
    return Path(os.environ.get("TIMESFORMER_CACHE") or Path.home() / ".cache/timesformer")


def _in_run(path: Path) -> Path:
    """The checkpoint of the folder of a run; any other path as it is."""
    found = checkpoint_of_run(path) if path.is_dir() and not has_hub_weights(path) else None
    return found or path


def _fetch(url: str) -> Path:
    address = urldefrag(url).url
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(address).path).name)) or "weights"
    path = cache_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{name}"
    fetch(url, path, _OFFLINE, "set TIMESFORMER_CACHE to a folder that can be written")
    return path


def _from_hub(name: str) -> Path:
    """A folder with the configuration and the weights of a model on the Hugging Face hub."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DownloadError(
            f"{name} is to come from the Hugging Face hub, for which the package huggingface_hub is missing: "
            f"pip install huggingface_hub. {_OFFLINE}"
        ) from error
    repository, _, revision = name.partition("@")
    try:
        for patterns in _HUB_FILES:
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
            if any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*")):
                return folder
    except Exception as error:  # which kinds the client raises differs from version to version
        raise DownloadError(
            f"{repository} could not be fetched from the Hugging Face hub: {' '.join(str(error).split())[:300]}. On a "
            f"machine without network, run `hf download {repository} --local-dir FOLDER` elsewhere, and give the folder"
        ) from error
    raise DownloadError(
        f"{repository} on the Hugging Face hub has no weights for PyTorch: expected model.safetensors or "
        "pytorch_model.bin; name another model"
    )
