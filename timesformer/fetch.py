"""Downloading one file: resumed after a broken connection, checked, and given its name only when it is complete."""

import hashlib
import logging
import os
import re
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urldefrag, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock

from timesformer.errors import UserError
from timesformer.progress import Progress

logger = logging.getLogger(__name__)

TIMEOUT = 60  # seconds without data after which a connection is considered broken
ATTEMPTS = 3  # consecutive connections without new data after which a download fails
_CHUNK = 1 << 20
_EXPECTATIONS = {
    "sha256": (r"[0-9a-fA-F]{64}", "64 hexadecimal digits"),
    "md5": (r"[0-9a-fA-F]{32}", "32 hexadecimal digits"),
    "size": (r"\d+", "a number of bytes"),
}


class DownloadError(UserError):
    """A file could not be downloaded, or is not the expected one."""


def fetch(url: str, path: Path, offline_hint: str, disk_hint: str = "choose another folder") -> None:
    """Downloads `url` to `path` if it is not there. Checksums and size after `#` in the URL are checked in both cases.

    One process downloads, others that ask for the same file wait. An incomplete file is `<path>.partial`; the next call
    resumes it. The hints are for messages: what to do without network, and if `path` cannot be written. Raises
    DownloadError if the file cannot be reached or is not the expected one, or `path` cannot be written.
    """
    if problem := url_problem(url):
        raise DownloadError(f"{url}: {problem}")
    address, expected = urldefrag(url).url, url_expectations(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file():
                _verify(path, url, expected)
                return
            partial = path.with_name(f"{path.name}.partial")
            _download(address, partial, int(expected["size"]) if "size" in expected else None, offline_hint)
            try:
                with partial.open("rb") as file:
                    if is_web_page(file.read(512)):
                        raise _web_page_error(url)
                _verify(partial, url, expected)
            except DownloadError:
                partial.unlink()
                raise
            partial.replace(path)
            logger.info("%s downloaded to %s", address, path)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror or error}; free some space, or {disk_hint}"
        ) from error


def is_web_page(head: bytes) -> bool:
    """Whether a file with these first bytes is HTML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file in hexadecimal digits."""
    found = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _web_page_error(url: str) -> DownloadError:
    return DownloadError(f"{url} is a web page (a login?), expected a file; give the address of the file itself")


def _verify(path: Path, url: str, expected: dict[str, str]) -> None:
    partial = path.suffix == ".partial"
    remedy = "The download was discarded" if partial else f"Remove {path} to download it again"
    found = {key: str(path.stat().st_size) if key == "size" else digest(path, key) for key in expected}
    for key, value in found.items():
        if value != expected[key].lower():
            raise DownloadError(f"{url}: the file has {key} {value}, expected {expected[key]}. {remedy}")


def _download(url: str, partial: Path, size: int | None, offline_hint: str) -> None:
    """Completes `partial`, resuming what an earlier connection, maybe of another process, has left."""
    validator = partial.with_name(f"{partial.name}.etag")  # shows whether the rest would be of the same file
    attempts, farthest = ATTEMPTS, partial.stat().st_size if partial.is_file() else 0
    while not _one_connection(url, partial, validator, size, offline_hint):
        reached = partial.stat().st_size if partial.is_file() else 0
        attempts = ATTEMPTS if reached > farthest else attempts - 1
        farthest = max(farthest, reached)
        if not attempts:
            broken = f"the connection broke {ATTEMPTS} times after {reached} bytes"
            raise DownloadError(f"{url}: {broken}; run the same command to resume")
        logger.warning("%s: the connection broke after %d bytes; resuming", url, reached)
    validator.unlink(missing_ok=True)


def _one_connection(url: str, partial: Path, validator: Path, size: int | None, offline_hint: str) -> bool:
    """Whether the file is complete afterwards; False if the connection broke."""
    done = partial.stat().st_size if partial.is_file() and validator.is_file() else 0
    headers = {"User-Agent": "timesformer", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator.read_text()}
    with _open(Request(url, headers=headers), offline_hint) as response:
        if response.status == 416:  # no more bytes: the file is complete, or was replaced
            complete = response.headers.get("Content-Range") == f"bytes */{done}"
            if not complete:
                partial.unlink()
            return complete
        if response.headers.get_content_type() == "text/html":
            raise _web_page_error(url)
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {done}-") and response.status == 206
        if response.status != 200 and not resumed:
            validator.unlink(missing_ok=True)  # the next call asks for the whole file
            raise DownloadError(f"{url} answers {response.status} {response.reason}; check the address. {offline_hint}")
        done = done if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        if size is not None and total not in (size, None):
            raise DownloadError(f"{url} has size {total}, expected {size}")
        if (etag := response.headers.get("ETag", "")).startswith('"'):  # not a weak one
            validator.write_text(etag)
        else:
            validator.unlink(missing_ok=True)
        with partial.open("ab" if resumed else "wb") as file, Progress(partial.stem, total, "B", done) as progress:
            while chunk := _next_chunk(response):
                file.write(chunk)
                done += len(chunk)
                progress.advance(len(chunk))
            os.fsync(file.fileno())
        if not done and total in (0, None) and size != 0 and chunk is not None:
            raise DownloadError(f"{url} answers with an empty file; check the address. {offline_hint}")
    return chunk is not None and total in (done, None)


def _next_chunk(response: HTTPResponse) -> bytes | None:
    """The next bytes; b"" at the end, None if the connection broke."""
    try:
        return response.read1(_CHUNK)
    except (OSError, HTTPException):
        return None


def _open(request: Request, offline_hint: str) -> HTTPResponse | HTTPError:
    url = request.full_url
    try:
        return build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and request.has_header("Range"):
            return error
        raise DownloadError(f"{url} answers {error.code} {error.reason}; check the address. {offline_hint}") from error
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url} cannot be reached: {getattr(error, 'reason', error)}. {offline_hint}") from error


class _SafeRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if not is_allowed(newurl):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def url_expectations(url: str) -> dict[str, str]:
    """The expectations after `#` in a URL: `sha256` and `md5` (hexadecimal digits) and `size` (bytes)."""
    return dict(parse_qsl(urlsplit(url).fragment, keep_blank_values=True))


def is_allowed(url: str) -> bool:
    """Whether files may be downloaded from there: https from anywhere, http from this machine only."""
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname:
        try:
            return parts.hostname == "localhost" or ip_address(parts.hostname).is_loopback
        except ValueError:
            return False
    return parts.scheme == "https" and bool(parts.hostname)


def url_problem(url: str) -> str:
    """What is wrong with the URL of a file or with its expectations; "" if nothing is."""
    if not is_allowed(url):
        return "expected an https:// URL"
    for key, value in url_expectations(url).items():
        if key not in _EXPECTATIONS:
            return f"expected #sha256=<hex>, #md5=<hex> or #size=<bytes> after the URL, found {key!r}"
        pattern, expected = _EXPECTATIONS[key]
        if not re.fullmatch(pattern, value):
            return f"expected {expected} after {key}=, found {value!r}"
    return ""
