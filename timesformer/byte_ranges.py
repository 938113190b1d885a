"""Parts of files, local or remote, without reading or downloading the rest: for clips in tar shards.

Remote files are read through the handlers of `timesformer.paths`, and others through fsspec, if it is installed.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from timesformer.fetch import ATTEMPTS, TIMEOUT, DownloadError, is_allowed
from timesformer.paths import S3Handler, path_manager

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_ANSWERS = ATTEMPTS + 5  # to one request: redirects, and answers that break off
_THREADS = 16
_BLOCK = 1 << 20  # bytes of one request to a remote file that is read in order
_HINT = "check the address, the network and the credentials"

Result = TypeVar("Result")


class FileStatus(NamedTuple):
    """Size in bytes; `stamp` changes with the content: time of change (ns) of a local file, ETag of a remote one."""

    size: int
    stamp: str


def is_address(path: str) -> bool:
    """Whether a path has a scheme such as https:// or gs://."""
    return bool(_SCHEME.match(path))


def file_status(path: str) -> FileStatus:
    """Size and stamp of a file. Raises FileNotFoundError or another OSError, DownloadError if it is remote."""
    if is_address(path):
        with _as_download_error(path):
            return _source(path).status(path)
    found = os.stat(path)
    return FileStatus(found.st_size, str(found.st_mtime_ns))


def read_range(path: str, start: int, stop: int) -> bytes:
    """The bytes `start` to `stop` - 1 of a file; fewer if it ends before. Errors as `file_status`."""
    if is_address(path):
        with _as_download_error(path):
            return _source(path).read(path, start, stop)
    with open(path, "rb", buffering=0) as file:
        return _read_all(file, start, stop)


def open_range(path: str, start: int, size: int, name: str, buffer: int = 0) -> BinaryIO:
    """A part of a file as a file of `size` bytes, called `name`; it has a buffer of `buffer` bytes (0: the default)."""
    buffer = buffer or (_BLOCK if is_address(path) else io.DEFAULT_BUFFER_SIZE)
    return io.BufferedReader(_Range(path, start, size, name), buffer)


class _Range(io.RawIOBase):
    def __init__(self, path: str, start: int, size: int, name: str) -> None:
        self._path, self._start, self._size, self.name = path, start, size, name
        self._position = 0
        self._file = None if is_address(path) else open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(0, self._size - self._position))
        start = self._start + self._position
        if self._file is None:
            content = read_range(self._path, start, start + length) if length else b""
        else:
            self._file.seek(start)
            content = self._file.read(length)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _read_all(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    parts, wanted = [], stop - start
    while wanted > 0 and (part := file.read(wanted)):  # a raw file may return less
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


@contextmanager
def _as_download_error(path: str) -> Iterator[None]:
    try:
        yield
    except (DownloadError, FileNotFoundError):
        raise
    except Exception as error:  # handlers raise errors of any kind
        raise DownloadError(f"{path} cannot be read: {type(error).__name__}: {error}; {_HINT}") from error


def _source(path: str) -> "_Source":
    protocol = _SCHEME.match(path)[1].lower()
    if protocol in ("http", "https"):
        return _Http()
    if not path_manager.is_remote(path):
        return _FileSystem(protocol, os.getpid())
    handler = path_manager.handler_of(path)
    return _S3(handler) if isinstance(handler, S3Handler) else _Handler()


class _Source(Protocol):
    def status(self, path: str) -> FileStatus: ...

    def read(self, path: str, start: int, stop: int) -> bytes: ...


class _Http:
    """Files of servers that answer requests for ranges (RFC 9110, section 14)."""

    def status(self, path: str) -> FileStatus:
        _, headers = self._request(path, 0, 1)
        total = headers.get("Content-Range", "").rpartition("/")[2]
        if not total.isdecimal():
            raise DownloadError(f"{path}: its server does not give the size of the file")
        return FileStatus(int(total), headers.get("ETag") or headers.get("Last-Modified") or "")

    def read(self, path: str, start: int, stop: int) -> bytes:
        return self._request(path, start, stop)[0]

    def _request(self, url: str, start: int, stop: int) -> tuple[bytes, Mapping[str, str]]:
        """The range of a file, and the headers of the answer; no bytes if it ends before `start`."""
        from urllib3.exceptions import MaxRetryError, ProtocolError, ReadTimeoutError, SSLError

        address, headers = url, {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        for _ in range(_ANSWERS):
            if not is_allowed(address):
                raise DownloadError(f"{url}: expected an https:// address, found {address}")
            pool = _connections(os.getpid(), _proxy_for(address))
            try:
                response = pool.request("GET", address, headers=headers, redirect=False, preload_content=False)
                if response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    content = response.read()
                    response.release_conn()
                    return content, response.headers
            except MaxRetryError as error:
                raise DownloadError(f"{url} cannot be reached: {error.reason}; {_HINT}") from error
            except (ProtocolError, ReadTimeoutError, SSLError):  # the connection broke in the middle of the answer
                continue
            response.close()  # the rest of it may be the whole file
            if location := response.get_redirect_location():
                address = urljoin(address, location)
            elif response.status == 416:
                return b"", response.headers
            elif response.status in (404, 410):
                raise FileNotFoundError(f"{url} answers {response.status}")
            elif response.status in (200, 206):
                raise DownloadError(
                    f"{url}: its server sends whole files (answer {response.status}), expected ranges (206): use a "
                    "server that supports Range requests, such as nginx, Apache or object storage, or copy the file"
                )
            else:
                raise DownloadError(f"{url} answers {response.status} {response.reason}; {_HINT}")
        raise DownloadError(f"{url} redirects, or its connection breaks, too often; {_HINT}")


@lru_cache(maxsize=2)
def _connections(process: int, proxy: str | None) -> Any:
    """Open connections of a process; those of another one cannot be used after a fork."""
    import urllib3  # late: only for remote files

    retries = urllib3.Retry(ATTEMPTS, redirect=False, status_forcelist=(429, 502, 503, 504), backoff_factor=0.5)
    options = {"maxsize": _THREADS, "timeout": TIMEOUT, "retries": retries}
    if not proxy:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return urllib3.ProxyManager(proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=user), **options)


def _proxy_for(address: str) -> str | None:
    parts = urlsplit(address)
    return None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)


def _repeat(read: Callable[[], bytes]) -> bytes:
    """Repeats a read of object storage whose answer breaks off, as often as `_Http`; libraries repeat requests only."""
    for _ in range(_ANSWERS - 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError, DownloadError):
            raise
        except Exception as error:  # its class depends on the library
            if hasattr(error, "response"):  # of botocore: the service refuses the request
                raise
    return read()


class _S3:
    """Objects of s3://, with the client of the handler."""

    def __init__(self, handler: S3Handler) -> None:
        self._handler = handler

    def status(self, path: str) -> FileStatus:
        found = self._call("head_object", path)
        return FileStatus(found["ContentLength"], found.get("ETag", ""))

    def read(self, path: str, start: int, stop: int) -> bytes:
        return _repeat(lambda: self._call("get_object", path, Range=f"bytes={start}-{stop - 1}")["Body"].read())

    def _call(self, operation: str, path: str, **options: str) -> Mapping[str, Any]:
        bucket, key = self._handler._parse_uri(path)
        try:
            return getattr(self._handler._get_client(bucket), operation)(Bucket=bucket, Key=key, **options)
        except Exception as error:  # botocore makes the classes of its errors when it runs
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            if code in ("404", "NoSuchKey"):
                raise FileNotFoundError(f"{path} does not exist") from error
            raise


class _Handler:
    """Files of a handler that a user registered; it opens them."""

    def status(self, path: str) -> FileStatus:
        with path_manager.open(path, "rb") as file:
            return FileStatus(file.seek(0, os.SEEK_END), "")

    def read(self, path: str, start: int, stop: int) -> bytes:
        with path_manager.open(path, "rb") as file:
            return _read_all(file, start, stop)


@lru_cache(maxsize=8)
class _FileSystem:
    """Files of a file system of fsspec, made in this process, as its connections do not survive a fork."""

    def __init__(self, protocol: str, process: int) -> None:
        try:
            import fsspec

            self._files = fsspec.filesystem(protocol, skip_instance_cache=True)
        except (ImportError, ValueError) as error:  # ValueError: it does not know the protocol
            message = f"paths that begin with {protocol}:// need fsspec and its package for them ({error})"
            raise DownloadError(f"{message}: pip install fsspec, and gcsfs for gs://, adlfs for abfs://") from error

    def status(self, path: str) -> FileStatus:
        found = self._files.info(path)
        stamps = (found.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"))
        return FileStatus(found["size"], str(next(filter(None, stamps), "")))

    def read(self, path: str, start: int, stop: int) -> bytes:
        return _repeat(lambda: self._files.cat_file(path, start, stop))


def in_threads(function: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    """The results of a function for each path; for remote paths, several calls wait at the same time."""
    if not any(map(is_address, paths)):
        return list(map(function, paths))
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, paths))
