"""Weights by name: from a URL, from the released models, from the Hugging Face hub, each fetched once."""

import socket
from pathlib import Path

import pytest
import torch

from tests.loopback import Server
from timesformer.config.sources import ZOO
from timesformer.models.weights import download
from timesformer.models.weights.download import DownloadError, local_path
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.loading import read_checkpoint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TIMESFORMER_CACHE", str(folder))
    return folder


def test_a_file_is_kept_in_the_cache_under_its_name(server: Server, cache: Path) -> None:
    server.files["/some/model%20a.pyth?dl=1"] = b"m" * 9
    path = local_path(server.url("/some/model%20a.pyth?dl=1"))
    assert path.read_bytes() == b"m" * 9
    assert path.parent == cache
    assert path.name.endswith("-model_a.pyth")
    assert local_path(server.url("/some/model%20a.pyth?dl=1")) == path
    assert len(server.asked) == 1


def test_files_of_one_name_at_two_places_are_kept_apart(server: Server) -> None:
    server.files |= {"/a/model.pyth": b"a" * 9, "/b/model.pyth": b"b" * 9}
    assert local_path(server.url("/a/model.pyth")).read_bytes() == b"a" * 9
    assert local_path(server.url("/b/model.pyth")).read_bytes() == b"b" * 9


def test_no_network_names_the_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached: .*On a machine without network, fetch it elsewhere"):
        local_path(f"http://127.0.0.1:{port}/m")


def test_a_name_that_makes_no_sense_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(DownloadError, match="expected an https:// URL"):
        local_path("http://example.invalid/m")
    with pytest.raises(DownloadError, match="the nearest is TimeSformer_divST_8x32_224_K400"):
        local_path("zoo:TimeSformer_8x32_224_K400")


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIMESFORMER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="set TIMESFORMER_CACHE to a folder"):
        local_path(server.url("/m"))


class TestReading:
    @pytest.mark.parametrize("path", ["folder/model.pyth", "hf", "zoo"])
    def test_a_path_is_taken_as_it_is(self, path: str) -> None:
        assert local_path(path) == Path(path)

    def test_a_checkpoint_is_read_from_a_url(self, server: Server, tmp_path: Path) -> None:
        torch.save({"model_state": {"model.norm.weight": torch.ones(3)}, "epoch": 7}, tmp_path / "m")
        server.files["/m"] = (tmp_path / "m").read_bytes()
        checkpoint = read_checkpoint(server.url("/m"))
        assert list(checkpoint.state) == ["norm.weight"]
        assert checkpoint.rest == {"epoch": 7}

    def test_a_released_model_is_fetched_by_name_with_its_licence(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        name = "TimeSformer_divST_16_448_SSv2"
        asked = []
        monkeypatch.setattr(download, "_fetch", lambda url: asked.append(url) or Path("x"))
        assert local_path(f"zoo:{name}") == Path("x")
        assert asked == [ZOO[name].url]
        assert "16 frames of 448 x 448; published top-1 61.8 %, top-5 86.9 %; licence CC-BY-NC" in caplog.text


class TestHub:
    """The client of the hub is a library with tests of its own; here it is replaced at its door."""

    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
        """Files by repository; each holds one tensor that says which it is from."""
        client = pytest.importorskip("huggingface_hub")
        repositories: dict[str, list[str]] = {}

        def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
            if repository not in repositories:
                raise client.errors.LocalEntryNotFoundError("no outgoing traffic\n and not in the cache")
            folder = tmp_path / "hub" / repository.replace("/", "--") / (revision or "main")
            folder.mkdir(parents=True, exist_ok=True)
            for file in repositories[repository]:
                if any(Path(file).match(pattern) for pattern in allow_patterns):
                    if file == "config.json":
                        (folder / file).write_text('{"num_attention_heads": 3}')
                    else:
                        torch.save({f"from {file}": torch.ones(1)}, folder / file)
            return str(folder)

        monkeypatch.setattr(client, "snapshot_download", snapshot_download)
        return repositories

    def test_a_model_is_read_with_its_configuration(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"]
        checkpoint = read_checkpoint("hf:owner/name@v1")
        assert list(checkpoint.state) == ["from model.safetensors"]
        assert checkpoint.facts.num_heads == 3

    def test_older_weights_are_taken_where_there_are_no_safetensors(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "pytorch_model.bin"]
        assert list(read_checkpoint("hf:owner/name").state) == ["from pytorch_model.bin"]

    def test_timm_models_are_those_of_its_place_on_the_hub(self, hub: dict[str, list[str]]) -> None:
        hub["timm/vit_base_patch16_224.augreg_in21k"] = ["config.json", "pytorch_model.bin"]
        assert read_checkpoint("timm:vit_base_patch16_224.augreg_in21k").state

    def test_a_model_without_weights_is_refused(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "tf_model.h5"]
        with pytest.raises(DownloadError, match=r"owner/name on the Hugging Face hub has no weights for PyTorch"):
            read_checkpoint("hf:owner/name")

    def test_no_network_names_the_way_round(self, hub: dict[str, list[str]]) -> None:
        with pytest.raises(DownloadError, match=r"no outgoing traffic and .*run `hf download owner/name --local-dir"):
            read_checkpoint("hf:owner/name")


def test_a_damaged_download_is_an_error_of_the_file(server: Server) -> None:
    server.files["/m"] = bytes(range(256))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(server.url("/m"))
