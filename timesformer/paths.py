"""Paths that may be remote: one iopath PathManager for weights, dataset lists and annotation files."""

import hashlib
import os
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urldefrag, urlsplit

from iopath.common.file_io import PathHandler
from iopath.common.file_io import PathManager as BasePathManager
from iopath.common.s3 import S3PathHandler

from timesformer.errors import UserError
from timesformer.fetch import DownloadError, fetch

OFFLINE_HINT = "Without network, download it elsewhere and give the path, or copy the folder $TIMESFORMER_CACHE"


class PathManager(BasePathManager):
    """iopath's PathManager that knows which paths have a handler."""

    def is_remote(self, path: str | Path) -> bool:
        """Whether a handler is registered for the beginning of `path`; all other paths are local."""
        return os.fspath(path).startswith(tuple(self._path_handlers))

    def handler_of(self, path: str) -> PathHandler:
        """The handler registered for the longest beginning of `path`, which must be remote."""
        return self._path_handlers[max(filter(path.startswith, self._path_handlers), key=len)]


path_manager = PathManager()


def cache_folder() -> Path:
    """The folder of downloads: $TIMESFORMER_CACHE, else ~/.cache/timesformer."""
    return Path(os.environ.get("TIMESFORMER_CACHE") or Path.home() / ".cache/timesformer")


def local_path(path: str | Path) -> Path:
    """A local path as it is, or that of a remote file, downloaded unless in the cache; raises DownloadError."""
    if not path_manager.is_remote(path):
        return Path(path)
    try:
        return Path(path_manager.get_local_path(os.fspath(path)))
    except UserError:
        raise
    except Exception as error:  # handlers raise errors of any kind
        raise DownloadError(f"{path} cannot be read: {type(error).__name__}: {error}. {OFFLINE_HINT}") from error


def open(path: str | Path, mode: str = "r", **options: Any) -> IO[Any]:
    """Opens a local or remote file for reading, like the built-in function. Raises OSError or DownloadError."""
    return local_path(path).open(mode, **options)


class HTTPHandler(PathHandler):
    """Files of https://, and of http:// on this machine, downloaded once to the cache; see `timesformer.fetch`."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["https://", "http://"]

    def _get_local_path(self, path: str, force: bool = False, **options: Any) -> str:
        address = urldefrag(path).url
        name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(address).path).name)) or "file"
        file = cache_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{name}"
        if force:
            file.unlink(missing_ok=True)
        fetch(path, file, OFFLINE_HINT, "set TIMESFORMER_CACHE to another folder")
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[Any]:
        return Path(self._get_local_path(path)).open(mode, buffering, **options)


class S3Handler(S3PathHandler):
    """Objects of s3://, with the credentials that boto3 finds; boto3 is imported on first use."""

    def __init__(self) -> None:  # that of the base imports boto3
        self.profile = os.environ.get("AWS_PROFILE")
        self._process = os.getpid()

    def _get_client(self, bucket: str) -> Any:
        if self._process != os.getpid():  # connections cannot be used after a fork
            self.__dict__.pop("client", None)
            self._process = os.getpid()
        if not hasattr(self, "transfer_config"):
            try:
                super().__init__(profile=self.profile)
            except ImportError as error:
                raise DownloadError("paths that begin with s3:// need boto3: pip install boto3") from error
        return super()._get_client(bucket)

    def _local_cache_path(self, path: str) -> str:
        bucket, key = self._parse_uri(path)  # that of the base has no bucket, so that equal keys would be one file
        return str(cache_folder() / "s3" / bucket / key)

    def _get_local_path(self, path: str, **options: Any) -> str:
        """Also downloads a folder, without those in it."""
        if self._isfile(path):
            return super()._get_local_path(path)
        bucket, prefix = self._parse_uri(f"{path.rstrip('/')}/")
        keys = [key for key in self._ls(f"s3://{bucket}/{prefix}") if not key.endswith("/")]
        if not keys:
            raise DownloadError(f"{path} does not exist, or these credentials may not read it; check the address")
        files = {Path(super(S3Handler, self)._get_local_path(f"s3://{bucket}/{key}")) for key in keys}
        folder = cache_folder() / "s3" / bucket / prefix
        for file in folder.iterdir():  # deleted since an earlier download
            if file.is_file() and file not in files and file.suffix != ".lock":
                file.unlink()
        return str(folder)


path_manager.register_handler(HTTPHandler())
path_manager.register_handler(S3Handler())
