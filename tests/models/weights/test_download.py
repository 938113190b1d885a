"""Weights by name: released models, models of the Hugging Face hub, and files of a URL."""

import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch

from tests.loopback import Server
from timesformer.config.sources import ZOO
from timesformer.errors import UserError
from timesformer.fetch import DownloadError
from timesformer.models.baselines import TimmModel
from timesformer.models.weights.download import local_path
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.loading import read_checkpoint
from timesformer.paths import HTTPHandler


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache."""
    monkeypatch.setenv("TIMESFORMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of files by repository, which the hub's client finds; each file holds one tensor with its name."""
    repositories: dict[str, list[str]] = {}

    def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        if repository not in repositories:
            raise huggingface_hub.errors.LocalEntryNotFoundError("no outgoing traffic\n and not in the cache")
        folder = tmp_path / "hub" / repository.replace("/", "--") / (revision or "main")
        folder.mkdir(parents=True, exist_ok=True)
        for file in repositories[repository]:
            if any(Path(file).match(pattern) for pattern in allow_patterns):
                if file == "config.json":
                    (folder / file).write_text('{"num_attention_heads": 3}')
                else:
                    torch.save({f"from {file}": torch.ones(1)}, folder / file)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return repositories


def test_hub_whose_address_is_unknown_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def send(*arguments: object, **options: object) -> None:
        pytest.fail("a request was sent")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", send)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    with pytest.raises(DownloadError, match=r"huggingface\.co cannot be found"):
        local_path("hf:some/model")
    with pytest.raises(UserError, match=r"huggingface\.co cannot be found"):
        TimmModel("vit_small_patch14_dinov2.lvd142m", 3, pretrained=True)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("name", ["http://example.invalid/m", "zoo:TimeSformer_8x32_224_K400", "hf:name"])
def test_invalid_name(name: str) -> None:
    with pytest.raises(DownloadError, match=name):
        local_path(name)


def test_released_model(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    name = "TimeSformer_divST_16_448_SSv2"
    monkeypatch.setattr(HTTPHandler, "_get_local_path", lambda self, path, *args, **options: path)
    assert local_path(f"zoo:{name}") == Path(ZOO[name].url)
    assert "CC-BY-NC" in caplog.text


def test_checkpoint_of_a_url(server: Server, tmp_path: Path) -> None:
    torch.save({"model_state": {"model.norm.weight": torch.ones(3)}, "epoch": 7}, tmp_path / "m")
    server.files |= {"/m": (tmp_path / "m").read_bytes(), "/damaged": bytes(range(256))}
    checkpoint = read_checkpoint(server.url("/m"))
    assert list(checkpoint.state) == ["norm.weight"]
    assert checkpoint.rest == {"epoch": 7}
    with pytest.raises(CheckpointError):
        read_checkpoint(server.url("/damaged"))


def test_hub_model(hub: dict[str, list[str]]) -> None:
    hub["owner/name"] = ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"]
    checkpoint = read_checkpoint("hf:owner/name@v1")
    assert list(checkpoint.state) == ["from model.safetensors"]
    assert checkpoint.metadata.num_heads == 3


@pytest.mark.parametrize("name", ["hf:owner/name", "timm:vit_base_patch16_224.augreg_in21k"])
def test_hub_model_without_safetensors(hub: dict[str, list[str]], name: str) -> None:
    hub["owner/name"] = hub["timm/vit_base_patch16_224.augreg_in21k"] = ["config.json", "pytorch_model.bin"]
    assert list(read_checkpoint(name).state) == ["from pytorch_model.bin"]


def test_hub_model_that_cannot_be_read(hub: dict[str, list[str]]) -> None:
    with pytest.raises(DownloadError, match="owner/name"):
        read_checkpoint("hf:owner/name")
