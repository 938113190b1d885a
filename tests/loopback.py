"""A file server on this machine that breaks connections and changes files when told to."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by path, and breaks the connection after so many bytes of an answer where `breaks` says so.

    Attributes:
        files: content by path.
        breaks: number of bytes after which each of the next answers ends; taken off the front.
        etag, last_modified: of all files; "" for none.
        status: of the answers with a file.
        length: Content-Length of answers; None: what it is.
        asked: path and Range header of each GET so far.
        redirects: address by path.
        resumable: whether Range is heeded.
        content_type: of all files.
        proxy_authorization: what a proxy requires in this header; "" for none. Its `files` are by address.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.etag = '"one"'
        self.last_modified = ""
        self.status = 200
        self.length: str | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.redirects: dict[str, str] = {}
        self.resumable = True
        self.content_type = "application/octet-stream"
        self.proxy_authorization = ""

    def handle_error(self, *request: object) -> None:
        """Nothing: clients may close the connection before the end of an answer."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        required = self.server.proxy_authorization
        if required and self.headers.get("Proxy-Authorization") != required:
            self.send_error(407)
            return
        if content is None:
            self.send_error(404)
            return
        start, stop, total = 0, len(content), len(content)
        strong = {mark for mark in (self.server.etag, self.server.last_modified) if not mark.startswith("W/")}
        is_part = wanted and self.server.resumable and self.headers.get("If-Range") in {None, *strong}
        if is_part:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
            start, stop = int(first), min(total, int(last or total) + 1)
            is_part = start > 0 or stop < total
        if start >= total > 0 and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if is_part else self.server.status)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        if self.server.last_modified:
            self.send_header("Last-Modified", self.server.last_modified)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", self.server.length or str(stop - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.breaks.pop(0) if self.server.breaks else stop])

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what is wrong."""
