"""Fetching one file by its URL: whole or not at all, once, held against a sum, going on where a connection broke."""

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

TIMEOUT = 60
"""Seconds without a byte after which a connection counts as broken."""
ATTEMPTS = 3
"""Connections in a row that bring nothing new, after which a download is given up."""
_CHUNK = 1 << 20
_DIGITS = {"sha256": 64, "md5": 32}
_WEB_PAGE = (
    "{} answers with a web page in place of a file; open it in a browser to see what it wants (a login, a "
    "confirmation), and give the address of the file itself"
)


class DownloadError(UserError):
    """A file that could not be fetched, or is not what was asked for."""


def fetch(url: str, path: Path, otherwise: str, elsewhere: str = "choose another folder") -> None:
    """Bring the file at `url` to `path`, unless it is there; what follows `#` in the URL is checked in both cases.

    Several processes may ask for the same file at the same time: one fetches it, the others wait.

    Args:
        url: https:// from anywhere, http:// from this machine only; `#sha256=<hex>`, `md5=<hex>` and `size=<bytes>`,
            joined by `&`, may follow it.
        path: of the file once it is whole. Until then `<path>.partial` has what came; the next call goes on with it.
        otherwise: what the user can do where the place cannot be reached; a sentence for messages.
        elsewhere: what the user can do where `path` cannot be written; for messages too.

    Raises:
        DownloadError: if the place cannot be reached or has no such file, what comes is not what was asked for, or
            `path` cannot be written.
    """
    if problem := url_problem(url):
        raise DownloadError(f"{url} is no address to fetch a file from: {problem}")
    address, expected = urldefrag(url).url, url_expectations(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # runs that start together fetch it once
            if path.is_file():
                _verify(path, url, expected)
                return
            partial = path.with_name(f"{path.name}.partial")
            _download(address, partial, int(expected["size"]) if "size" in expected else None, otherwise)
            try:
                if is_web_page(_head(partial)):
                    raise DownloadError(_WEB_PAGE.format(url))
                _verify(partial, url, expected)
            except DownloadError:
                partial.unlink()
                raise
            partial.replace(path)
            logger.info("%s is kept as %s", address, path)
    except OSError as error:
        raise DownloadError(
            f"{path} could not be written: {error.strerror or error}; make room, or {elsewhere}"
        ) from error


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins like this is HTML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The sum of a file in hexadecimal digits."""
    found = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _verify(path: Path, url: str, expected: dict[str, str]) -> None:
    kept = "It was thrown away" if path.suffix == ".partial" else f"It lies in {path}; remove it to fetch it anew"
    if "size" in expected and path.stat().st_size != int(expected["size"]):
        raise DownloadError(
            f"{url}: the file has {path.stat().st_size} bytes, expected {expected['size']}; correct the number after "
            f"size=, or find a file that has it. {kept}"
        )
    for algorithm, name in (("sha256", "SHA-256"), ("md5", "MD5")):
        if algorithm in expected and (found := digest(path, algorithm)) != expected[algorithm].lower():
            raise DownloadError(
                f"{url}: the file has {name} {found}, expected {expected[algorithm].lower()}; it is another file than "
                f"the one meant, or was changed. {kept}"
            )


def _download(url: str, partial: Path, size: int | None, otherwise: str) -> None:
    """Brings `partial` to the whole length, going on where an earlier connection broke, also in another process."""
    validator = partial.with_name(f"{partial.name}.etag")  # says whether the rest would be of the same file
    attempts, farthest = ATTEMPTS, partial.stat().st_size if partial.is_file() else 0
    while not _one_connection(url, partial, validator, size, otherwise):
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


def _one_connection(url: str, partial: Path, validator: Path, size: int | None, otherwise: str) -> bool:
    """Whether the file is whole after it; False when the connection broke."""
    done = partial.stat().st_size if partial.is_file() and validator.is_file() else 0
    headers = {"User-Agent": "timesformer", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator.read_text()}
    with _answer(Request(url, headers=headers), otherwise) as response:
        if response.status == 416:  # nothing lies behind what is here: it is whole, or the file was replaced
            whole = response.headers.get("Content-Range") == f"bytes */{done}"
            if not whole:
                partial.unlink()
            return whole
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(_WEB_PAGE.format(url))
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {done}-") and response.status == 206
        if response.status != 200 and not goes_on:
            validator.unlink(missing_ok=True)  # the next call asks for the whole file
            raise DownloadError(
                f"{url} answers {response.status} {response.reason}, expected the file; check the address. {otherwise}"
            )
        done = done if goes_on else 0
        length = response.headers.get("Content-Length", "")
        whole = done + int(length) if length.isdecimal() else None
        if size is not None and whole not in (size, None):
            raise DownloadError(
                f"{url} has {whole} bytes, expected {size}; correct size=, or find the file that has it"
            )
        mark = response.headers.get("ETag", "W/")
        if (
            mark := response.headers.get("Last-Modified", "") if mark.startswith("W/") else mark
        ):  # weak ones do not hold
            validator.write_text(mark)
        else:
            validator.unlink(missing_ok=True)
        with partial.open("ab" if goes_on else "wb") as file, Progress(partial.stem, whole, "B", done) as progress:
            while chunk := _next_chunk(response):
                file.write(chunk)
                done += len(chunk)
                progress.advance(len(chunk))
            os.fsync(file.fileno())
        if not done and whole in (0, None) and size != 0 and chunk is not None:
            raise DownloadError(f"{url} answers with no bytes, expected the file; check the address. {otherwise}")
    return chunk is not None and whole in (done, None)


def _next_chunk(response: HTTPResponse) -> bytes | None:
    """The next bytes, none at the end; None where the connection broke."""
    try:
        return response.read1(_CHUNK)
    except (OSError, HTTPException):
        return None


def _answer(request: Request, otherwise: str) -> HTTPResponse | HTTPError:
    """The server's answer: the file, a part of it, or 416 where the part asked for is not there."""
    url = request.full_url
    try:
        return build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and request.has_header("Range"):
            return error
        raise DownloadError(f"{url} answers {error.code} {error.reason}; check the address. {otherwise}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url} cannot be reached: {reason}. {otherwise}") from error


class _SafeRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if not is_allowed(newurl):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not https; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def url_expectations(url: str) -> dict[str, str]:
    """What follows `#` in a URL: `sha256` and `md5` (hexadecimal digits) and `size` (bytes), each if given."""
    return dict(parse_qsl(urlsplit(url).fragment, keep_blank_values=True))


def is_allowed(url: str) -> bool:
    """Whether a file may be taken from there: by https from anywhere, by http from this very machine only."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname)))


def url_problem(url: str) -> str:
    """What is wrong with the address of a file and with what it expects of the file; "" where nothing is."""
    if not is_allowed(url):
        return "expected an https:// URL: what comes another way could be changed on its way"
    expected = url_expectations(url)
    if unknown := [key for key in expected if key not in (*_DIGITS, "size")]:
        return f"expected #sha256=<hex>, #md5=<hex> or #size=<bytes> after the URL, found {unknown[0]!r}"
    for key, digits in _DIGITS.items():
        if key in expected and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", expected[key]):
            return f"expected {digits} hexadecimal digits after {key}=, found {len(expected[key])} characters"
    if "size" in expected and not expected["size"].isdecimal():
        return f"expected a number of bytes after size=, found {expected['size']!r}"
    return ""


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
