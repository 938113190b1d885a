"""Weights by URL, `zoo:`, `hf:` or `timm:` name, downloaded once: handlers of these names for `timesformer.paths`."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from iopath.common.file_io import PathHandler

from timesformer import paths
from timesformer.config.sources import ZOO, source_problem
from timesformer.fetch import DownloadError
from timesformer.models.weights.files import HUB_CONFIGS, has_hub_weights
from timesformer.paths import path_manager
from timesformer.runtime.run_folder import checkpoint_of_run

logger = logging.getLogger(__name__)

_HUB_FILES = (
    [*HUB_CONFIGS, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    [*HUB_CONFIGS, "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)


def local_path(source: str | Path) -> Path:
    """The local path, which may not exist, of weights (see `source_problem`); remote ones are downloaded once.

    The folder of a run gives its best, else its newest checkpoint. Raises DownloadError.
    """
    name = os.path.expanduser(source)
    if "://" in name or path_manager.is_remote(name):
        if problem := source_problem(name):
            raise DownloadError(f"{source}: {problem}")
        return paths.local_path(name)
    path = Path(name)
    return (path.is_dir() and not has_hub_weights(path) and checkpoint_of_run(path)) or path


def hub_configs(repository: str) -> Path:
    """The folder of the JSON files of OWNER/NAME[@REVISION] on the Hugging Face hub, downloaded once; DownloadError."""
    if problem := source_problem(f"hf:{repository}"):
        raise DownloadError(f"{repository}: {problem}")
    return Path(_snapshot(repository, list(HUB_CONFIGS)))


@contextmanager
def hub_or_cache() -> Iterator[str]:
    """Restricts the client of the Hugging Face hub to its cache without network: it would retry for minutes.

    Yields what is wrong with the network, "" if nothing is known.
    """
    from huggingface_hub import constants

    host, problem, before = urlsplit(constants.ENDPOINT).hostname, "", constants.HF_HUB_OFFLINE
    if not before and not getproxies():  # a proxy resolves names itself
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            problem = f"the address of {host} cannot be found ({error.strerror})"
    constants.HF_HUB_OFFLINE = before or bool(problem)
    try:
        yield problem
    finally:
        constants.HF_HUB_OFFLINE = before


def _snapshot(name: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    problem = ""
    try:
        with hub_or_cache() as problem:
            return snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
    except Exception as error:  # any kind, depending on the version of the client
        raise DownloadError(
            f"{repository} cannot be downloaded: {problem or ' '.join(str(error).split())[:300]}. Without network, run "
            f"`hf download {repository} --local-dir FOLDER` elsewhere, and give the folder"
        ) from error


class ZooHandler(PathHandler):
    """`zoo:NAME`, released models."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["zoo:"]

    def _get_local_path(self, path: str, force: bool = False, **options: Any) -> str:
        model = ZOO[path.removeprefix("zoo:")]
        logger.info("%s: %s", path, model.describe())
        return path_manager.get_local_path(model.url, force)


class HubHandler(PathHandler):
    """`hf:OWNER/NAME[@REVISION]` and `timm:NAME`, a folder with configuration and weights from the Hugging Face hub."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["hf:", "timm:"]

    def _get_local_path(self, path: str, force: bool = False, **options: Any) -> str:
        name = f"timm/{path.removeprefix('timm:')}" if path.startswith("timm:") else path.removeprefix("hf:")
        for patterns in _HUB_FILES:
            folder = _snapshot(name, patterns)
            if any(file.suffix in (".safetensors", ".bin") for file in Path(folder).glob("*")):
                return folder
        raise DownloadError(
            f"{name.partition('@')[0]} has no model.safetensors or pytorch_model.bin; name another model"
        )


path_manager.register_handler(ZooHandler())
path_manager.register_handler(HubHandler())
