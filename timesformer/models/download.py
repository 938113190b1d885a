"""Fetching weights that an option names by URL, `zoo:`, `hf:` or `timm:`, once, into a folder on this machine.

Nothing here runs unless such a name is given. Files lie in $TIMESFORMER_CACHE (~/.cache/timesformer); those of the
hub in the cache of huggingface_hub.
"""

import hashlib
import logging
import os
import re
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock
from tqdm import tqdm

from timesformer.config.sources import ZOO, is_allowed, source_problem, url_expectations
from timesformer.errors import UserError

logger = logging.getLogger(__name__)

TIMEOUT = 60
"""Seconds without a byte after which a connection counts as broken."""
ATTEMPTS = 3
"""Connections in a row that bring nothing new, after which a download is given up."""
_CHUNK = 1 << 20
_HUB_FILES = (
    ["config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    ["config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)
_WEB_PAGE = (
    "{} answers with a web page in place of a file; open it in a browser to see what it wants (a login, a "
    "confirmation), and give the address of the file itself"
)
_OFFLINE = (
    "On a machine without network, fetch it elsewhere (tools/convert_checkpoint.py does) and give the path, or copy "
    "the folder $TIMESFORMER_CACHE"
)


class DownloadError(UserError):
    """Weights that could not be fetched, or not as they should be."""


def local_path(source: str | Path) -> Path:
    """Where the weights lie on this machine, fetched first if they are elsewhere and not here already.

    Args:
        source: as `timesformer.config.sources.source_problem` takes it.

    Returns:
        A file, or a folder in the layout of the Hugging Face hub. A path comes back as it is, whether it exists or not.

    Raises:
        DownloadError: if the name makes no sense, the place cannot be reached or has no such file, or what comes is
            not what was asked for.
    """
    if isinstance(source, Path):
        return source
    kind, colon, name = source.partition(":")
    if "://" not in source and not (colon and kind in ("zoo", "hf", "timm")):
        return Path(source)
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


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins like this is HTML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))


def _fetch(url: str) -> Path:
    address, expected = urldefrag(url).url, url_expectations(url)
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(address).path).name)) or "weights"
    path = cache_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # runs that start together fetch it once
            if not path.is_file():
                partial = path.with_name(f"{path.name}.partial")
                _download(address, partial, int(expected["size"]) if "size" in expected else None)
                try:
                    if is_web_page(_head(partial)):
                        raise DownloadError(_WEB_PAGE.format(url))
                    _verify(partial, url, expected)
                except DownloadError:
                    partial.unlink()
                    raise
                partial.replace(path)
                logger.info("%s is kept as %s", address, path)
            else:
                _verify(path, url, expected)
    except OSError as error:
        raise DownloadError(
            f"{path} could not be written: {error.strerror or error}; make room, or set TIMESFORMER_CACHE to a folder "
            "that can be written"
        ) from error
    return path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _verify(path: Path, url: str, expected: dict[str, str]) -> None:
    if "size" in expected and path.stat().st_size != int(expected["size"]):
        raise DownloadError(
            f"{url}: the file has {path.stat().st_size} bytes, expected {expected['size']}; correct the number after "
            f"size=, or find a file that has it. {_kept(path)}"
        )
    if "sha256" in expected:
        with path.open("rb") as file:
            found = (
                hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
            )
        if found != expected["sha256"].lower():
            raise DownloadError(
                f"{url}: the file has SHA-256 {found}, expected {expected['sha256'].lower()}; it is another file than "
                f"the one meant, or was changed. {_kept(path)}"
            )


def _digest(file: BinaryIO) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _kept(path: Path) -> str:
    return "It was thrown away" if path.suffix == ".partial" else f"It lies in {path}; remove it to fetch it anew"


def _download(url: str, partial: Path, size: int | None) -> None:
    """Brings `partial` to the whole length, going on where an earlier connection broke, also in another process."""
    validator = partial.with_name(f"{partial.name}.etag")  # says whether the rest would be of the same file
    attempts, farthest = ATTEMPTS, partial.stat().st_size if partial.is_file() else 0
    while not _one_connection(url, partial, validator, size):
        reached = partial.stat().st_size if partial.is_file() else 0
        attempts = ATTEMPTS if reached > farthest else attempts - 1
        farthest = max(farthest, reached)
        if not attempts:
            raise DownloadError(
                f"{url}: the connection broke {ATTEMPTS} times with nothing new after {reached} bytes; the same "
                "command goes on from there"
            )
        logger.warning("%s: the connection broke after %d bytes; going on from there", url, reached)
    validator.unlink(missing_ok=True)


def _one_connection(url: str, partial: Path, validator: Path, size: int | None) -> bool:
    """Whether the file is whole after it; False when the connection broke."""
    done = partial.stat().st_size if partial.is_file() and validator.is_file() else 0
    headers = {"User-Agent": "timesformer", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator.read_text()}
    with _answer(Request(url, headers=headers)) as response:
        if response.status == 416:  # nothing lies behind what is here: it is whole, or the file was replaced
            whole = response.headers.get("Content-Range") == f"bytes */{done}"
            if not whole:
                partial.unlink()
            return whole
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(_WEB_PAGE.format(url))
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {done}-") and response.status == 206
        done = done if goes_on else 0
        length = response.headers.get("Content-Length")
        whole = done + int(length) if length else None
        if size is not None and whole not in (size, None):
            raise DownloadError(
                f"{url} has {whole} bytes, expected {size}; correct size=, or find the file that has it"
            )
        if mark := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            validator.write_text(mark)
        else:
            validator.unlink(missing_ok=True)
        bar = tqdm(total=whole, initial=done, unit="B", unit_scale=True, desc=partial.stem, leave=False, disable=None)
        with partial.open("ab" if goes_on else "wb") as file, bar:
            while chunk := _next_chunk(response):
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
            os.fsync(file.fileno())
    return chunk is not None and whole in (done, None)


def _next_chunk(response: HTTPResponse) -> bytes | None:
    """The next bytes, none at the end; None where the connection broke."""
    try:
        return response.read1(_CHUNK)
    except (OSError, HTTPException):
        return None


def _answer(request: Request) -> HTTPResponse | HTTPError:
    """The server's answer: the file, a part of it, or 416 where the part asked for is not there."""
    url = request.full_url
    try:
        return build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and request.has_header("Range"):
            return error
        raise DownloadError(f"{url} answers {error.code} {error.reason}; check the address. {_OFFLINE}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url} cannot be reached: {reason}. {_OFFLINE}") from error


class _SafeRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if not is_allowed(newurl):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not https; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


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
