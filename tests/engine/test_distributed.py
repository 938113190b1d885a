"""Several processes: what they tell each other, and that they train and evaluate as one does."""

import csv
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func
from fvcore.common.config import CfgNode
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from timesformer.config import get_cfg, load_config
from timesformer.datasets.loader import construct_loader
from timesformer.engine import checkpoint
from timesformer.engine import trainer as train
from timesformer.engine.compiled import Compiled
from timesformer.engine.meters import ViewEnsemble
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.baselines import TimmModel
from timesformer.runtime import distributed
from timesformer.runtime.launch import launch, run_and_report
from timesformer.runtime.ranks import dist_info

ROOT = Path(__file__).resolve().parents[2]
Ranks = Callable[..., list]
WITHOUT_CHANCE = ["MODEL.DROPOUT_RATE", "0.0", "TIMESFORMER.DROP_PATH_RATE", "0.0", "TENSORBOARD.ENABLE", "False"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_net_of_ranks", ROOT / "tools" / "run_net.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def in_ranks(main: Callable[[], object]) -> Callable[[int], int]:
    """What runs `main` in processes that have met."""
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE = 0, False, False
    return lambda rank: run_and_report(lambda: launch(cfg, lambda _: main()))


def command(tool: ModuleType, *arguments: str) -> Callable[[int], int]:
    """What `python tools/run_net.py arguments` does."""

    def run(rank: int) -> int:
        sys.argv = ["run_net.py", *arguments]
        return tool.main()

    return run


def curve(output: Path) -> list[tuple[str, float, float]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["epoch"], line["loss"]) for line in lines]


def assert_alike(one: Path, other: Path) -> None:
    """Both runs have the same losses, to 1e-5, and the same weights under the same names."""
    for (kind, epoch, loss), (*where, other_loss) in zip(curve(one), curve(other), strict=True):
        assert where == [kind, epoch]
        assert other_loss == pytest.approx(loss, abs=1e-5), (kind, epoch)
    name = "checkpoints/checkpoint_epoch_00002.pyth"
    here, there = (torch.load(folder / name, weights_only=True)["model_state"] for folder in (one, other))
    assert list(here) == list(there)
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- what they tell each other


def test_processes_sum_gather_and_follow_the_lead(ranks: Ranks) -> None:
    def main() -> None:
        rank = dist_info().rank
        distributed.barrier()
        largest = torch.tensor([rank, -rank])
        distributed.all_reduce(largest, op="max")
        said = [
            distributed.all_reduce_sum(torch.tensor(rank), 0.5),
            distributed.all_gather_objects({rank: "x" * rank}),
            largest.tolist(),
        ]
        print(json.dumps([*said, distributed.from_main_process(lambda: f"of {rank}")]))

    for ended in ranks(3, in_ranks(main)):
        assert (ended.code, ended.err) == (0, "")
        assert json.loads(ended.out) == [[3.0, 1.5], [{"0": ""}, {"1": "x"}, {"2": "xx"}], [2, 0], "of 0"]


def test_a_wish_of_one_process_is_known_to_all_one_call_later(ranks: Ranks) -> None:
    def main() -> None:
        agreement = distributed.DelayedMax()
        wishes = [0, 3 if dist_info().rank == 1 else 0, 1, 0]
        print([*map(agreement.exchange, wishes), agreement.wait(), distributed.all_reduce_max(-dist_info().rank)])

    assert [ended.out for ended in ranks(3, in_ranks(main))] == ["[0, 0, 3, 1, 0, 0]\n"] * 3


@pytest.mark.numerical
@pytest.mark.parametrize("method", ["sum", "max"])
def test_scores_joined_by_three_processes_are_bit_for_bit_those_of_one(
    ranks: Ranks, tmp_path: Path, method: str
) -> None:
    scores = torch.randn(7 * 5, 4, generator=torch.Generator().manual_seed(0))
    videos, views = torch.arange(7 * 5) // 5, torch.arange(7 * 5) % 5
    alone = ViewEnsemble(7, 5, 4, method)
    alone.update(scores, videos, views)

    def main() -> None:
        ensemble = ViewEnsemble(7, 5, 4, method)
        part = slice(None) if dist_info().world_size == 1 else slice(dist_info().rank, None, 3)
        ensemble.update(scores[part], videos[part], views[part])
        torch.save(ensemble.complete(), tmp_path / f"{dist_info().rank}.pt")
        ensemble = ViewEnsemble(7, 5, 4, method)
        ensemble.update(scores[:1], videos[:1], views[:1])
        try:
            ensemble.complete()
        except ValueError as error:
            print(error)

    for rank, ended in enumerate(ranks(3, in_ranks(main))):
        assert ended.code == 0, ended.err
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), alone.complete())
        assert ended.out == "34 of 35 views are missing from the result\n"


@pytest.mark.usefixtures("unhurried")
def test_a_view_that_two_processes_have_is_not_counted_twice(ranks: Ranks) -> None:
    def main() -> None:
        ensemble = ViewEnsemble(1, 1, 2)
        ensemble.update(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]))
        ensemble.complete()

    ended = ranks(2, in_ranks(main))
    assert [end.code for end in ended] == [1, 1]
    assert "ValueError: 1 of 1 views were counted in several processes" in ended[0].err + ended[1].err


class Partly(nn.Module):
    """Has parameters that are trained, frozen, and never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.frozen, self.unused, self.last = (nn.Linear(4, 4) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.frozen(self.first(x)).relu())


def train_partly(model: nn.Module, part: slice) -> list[torch.Tensor]:
    """Weights after four steps of three batches each."""
    forward = distributed.parallel(model, model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for _ in range(2):
            with distributed.no_sync(forward):
                (
                    forward(torch.randn(6, 4, generator=generator)[part]).square().sum() * dist_info().world_size / 18
                ).backward()
        (forward(torch.randn(6, 4, generator=generator)[part]).square().sum() * dist_info().world_size / 18).backward()
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters())


@pytest.mark.numerical
def test_accumulated_gradients_are_those_of_one_process_with_frozen_and_unused_parameters(
    ranks: Ranks, tmp_path: Path
) -> None:
    def main() -> None:
        part = slice(0, 2) if dist_info().rank == 0 else slice(2, 6)
        torch.save(train_partly(Partly(), part), tmp_path / "weights.pt")

    ended = ranks(2, in_ranks(main))
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    for mine, theirs in zip(train_partly(Partly(), slice(None)), torch.load(tmp_path / "weights.pt"), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)


def test_statistics_are_the_mean_by_clips_except_those_of_layers_in_evaluation_mode(ranks: Ranks) -> None:
    def main() -> None:
        rank, model = dist_info().rank, nn.ModuleList([nn.BatchNorm1d(1), nn.BatchNorm1d(1), nn.InstanceNorm1d(1)])
        model[1].eval()
        for norm in model[:2]:
            norm.running_mean.fill_(rank)
            norm.running_var.fill_(10.0 * rank)
            norm.num_batches_tracked.fill_(rank)
        distributed.average_batch_norm(model, [0.0, 0.25, 0.75][rank])
        print([buffer.flatten().tolist() for buffer in model.buffers()])

    for rank, ended in enumerate(ranks(3, in_ranks(main))):
        averaged, frozen = [[1.75], [17.5], [2]], [[float(rank)], [10.0 * rank], [rank]]
        assert (ended.out, ended.err) == (f"{averaged + frozen}\n", "")


# ---------------------------------------------------------------- training and evaluation


@pytest.mark.numerical
def test_two_and_four_processes_train_as_one_does(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, *WITHOUT_CHANCE, "TRAIN.BATCH_SIZE", "8", "GLOBAL_BATCH_SIZE", "8"]
    for number in (1, 2, 4):
        for ended in ranks(number, command(tool, *options, "OUTPUT_DIR", str(tmp_path / str(number)))):
            assert (ended.code, ended.err) == (0, "")
    for number in (2, 4):
        assert_alike(tmp_path / "1", tmp_path / str(number))
        results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("1", str(number))]
        assert results[0]["top1"] == results[1]["top1"]
        assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)
    names = sorted(path.name for path in (tmp_path / "4").iterdir())
    assert names == sorted({path.name for path in (tmp_path / "1").iterdir()} | {"log"})
    assert sorted(path.name for path in (tmp_path / "4" / "log").iterdir()) == [f"rank_{n}.log" for n in (1, 2, 3)]


def test_two_machines_with_accumulation_train_as_one_process_does(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, *WITHOUT_CHANCE, "GLOBAL_BATCH_SIZE", "8", "TEST.ENABLE", "False"]
    one = [*options, "TRAIN.BATCH_SIZE", "4", "OUTPUT_DIR", str(tmp_path / "one")]
    two = [*options, "TRAIN.BATCH_SIZE", "2", "OUTPUT_DIR", str(tmp_path / "two")]
    assert ranks(1, command(tool, *one))[0].code == 0
    for ended in ranks(2, command(tool, *two), LOCAL_WORLD_SIZE="1", LOCAL_RANK="0"):
        assert (ended.code, ended.err) == (0, "")
    assert_alike(tmp_path / "one", tmp_path / "two")
    log = (tmp_path / "two" / "run.log").read_text()
    assert "a step: 8 clips in 2 batch(es) of 2 on 2 machine(s) with 1 process(es); learning rate 0.01" in log


BASELINE = ["MODEL.MODEL_NAME", "timm/test_resnet", "SOLVER.BASE_LR", "1e-12", "SOLVER.WEIGHT_DECAY", "0.0"]
BASELINE += ["DATA.TRAIN_CROP_SIZE", "48", "DATA.TEST_CROP_SIZE", "48", "DATA.TRAIN_JITTER_SCALES", "[48, 48]"]


def expected_statistics(cfg: CfgNode, number: int, batches_per_step: int) -> dict[str, torch.Tensor]:
    """The state of the plain timm model after an epoch in which its weights stay, divided among `number` copies."""
    torch.manual_seed(cfg.RNG_SEED)
    state, shares = build_model(cfg).model.state_dict(), []
    batches = list(construct_loader(cfg, "train"))
    for index, batch in enumerate(batches):
        if index % batches_per_step == 0:
            copies, counts = [build_model(cfg).model.train() for _ in range(number)], [0] * number
            for copy in copies:
                copy.load_state_dict(state)
        clips = (batch["clip"].float() / 255 - 0.45) / 0.225
        for rank, copy in enumerate(copies):
            first, last = (place * len(clips) // number for place in (rank, rank + 1))
            counts[rank] += last - first
            shares.append(last - first)
            if first < last:
                copy(clips[first:last].transpose(1, 2).flatten(0, 1))
        if (index + 1) % batches_per_step == 0 or index + 1 == len(batches):
            states = [copy.state_dict() for copy in copies]
            for name, value in state.items():
                values = [other[name] for other in states]
                if "running" in name:
                    value = sum(part * count for part, count in zip(values, counts, strict=True)) / sum(counts)
                state[name] = max(values) if value.ndim == 0 else value
    assert shares == [1, 2, 2, 1, 2, 2, 0, 1, 1]
    return state


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_of_batch_norms_are_those_of_the_clips_of_all_processes_and_of_no_padding_clip(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path, accumulate: int
) -> None:
    options = [*tiny_command, *BASELINE, "TRAIN.BATCH_SIZE", "5", "GLOBAL_BATCH_SIZE", str(5 * accumulate)]
    options += ["SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False", "TENSORBOARD.ENABLE", "False"]
    cfg = load_config(tiny_command[1], [*options[2:], "OUTPUT_DIR", str(tmp_path / "out")])
    expected = expected_statistics(cfg, 3, accumulate)
    validate, forward = train.validate, TimmModel.forward

    def work(rank: int) -> int:
        def validate_and_keep(run: train.Run, loader: object) -> None:
            torch.save(run.model.state_dict(), tmp_path / f"{rank}.pt")
            validate(run, loader)

        def forward_and_say(model: TimmModel, clip: torch.Tensor) -> torch.Tensor:
            if not clip.is_meta and clip.std() == 0:
                print("padding in", "training" if model.training else "evaluation", "mode")
            return forward(model, clip)

        train.validate, TimmModel.forward = validate_and_keep, forward_and_say
        return command(tool, *options, "OUTPUT_DIR", str(tmp_path / "out"))(rank)

    ended = ranks(3, work)
    assert [(end.code, end.err) for end in ended] == [(0, "")] * 3
    assert [[line for line in end.out.splitlines() if "padding" in line] for end in ended] == [
        ["padding in evaluation mode"],
        [],
        [],
    ]
    checkpoints = [tmp_path / f"out/checkpoints/{name}.pyth" for name in ("best", "checkpoint_epoch_00001")]
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    states += [torch.load(path, weights_only=True)["model_state"] for path in checkpoints]
    for state in states:
        for name, value in expected.items():
            torch.testing.assert_close(state[f"model.{name}"], value, rtol=1e-5, atol=1e-6, msg=name)

    stem = build_model(cfg).model
    stem.load_state_dict(expected)
    norm = nn.BatchNorm2d(stem.conv1[0].out_channels)  # the first one sees the clips themselves: here in whole batches
    with torch.no_grad():
        for batch in construct_loader(cfg, "train"):
            norm(stem.conv1[0]((batch["clip"].float() / 255 - 0.45).div(0.225).transpose(1, 2).flatten(0, 1)))
    torch.testing.assert_close(norm.running_mean, expected["conv1.1.running_mean"], rtol=1e-5, atol=1e-6)


@pytest.mark.numerical
def test_three_processes_score_seven_videos_once_each_and_find_the_same(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(data / "test/walk/test0", data / "test/walk/test2")
    for frame in (data / "test/wave/test0").iterdir():
        frame.write_bytes(b"")
    checkpoint = str(tmp_path / "one/checkpoints/best.pyth")
    options = [*tiny_command, *WITHOUT_CHANCE, "DATA.PATH_TO_DATA_DIR", str(data), "TEST.BATCH_SIZE", "4"]
    options += ["TEST.NUM_ENSEMBLE_VIEWS", "2"]
    one = [*options, "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "one")]
    assert ranks(1, command(tool, *one))[0].code == 0
    three = [*options, "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint]
    for ended in ranks(3, command(tool, *three, "OUTPUT_DIR", str(tmp_path / "three"))):
        assert (ended.code, ended.err) == (0, "")
    rows = [list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in ("one", "three")]
    assert [row["video"] for row in rows[1]] == [row["video"] for row in rows[0]]
    for one_row, row in zip(*rows, strict=True):
        for rank in "123":
            assert row[f"class_{rank}"] == one_row[f"class_{rank}"]
            assert float(row[f"probability_{rank}"] or 0) == pytest.approx(
                float(one_row[f"probability_{rank}"] or 0), abs=2e-6
            )
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "three")]
    assert results[1]["num_videos"] == 7
    for key in ("top1", "top5", "per_class", "unreadable"):
        assert results[0][key] == results[1][key]
    with (tmp_path / "three/unreadable.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["wave/test0"]


@pytest.mark.usefixtures("unhurried")
def test_clips_that_no_process_can_read_are_counted_once_over_all(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for name in ("catch/train0", "walk/train1", "wave/train2"):
        for frame in (data / "train" / name).iterdir():
            frame.write_bytes(b"")
    options = [*tiny_command, "DATA.PATH_TO_DATA_DIR", str(data), "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"]
    done = ranks(
        3,
        command(tool, *options, "DATA.MAX_UNREADABLE_FRACTION", "0.25", "OUTPUT_DIR", str(tmp_path / "a")),
        LOCAL_WORLD_SIZE="1",
        LOCAL_RANK="0",
    )
    assert [end.code for end in done] == [0, 0, 0], done[0].err
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert [line["unreadable"] for line in lines if line["kind"] == "train_epoch"] == [3]
    with (tmp_path / "a/unreadable.csv").open() as file:
        assert sorted(row["name"] for row in csv.DictReader(file)) == ["catch/train0", "walk/train1", "wave/train2"]
    stopped = ranks(
        3,
        command(tool, *options, "DATA.MAX_UNREADABLE_FRACTION", "0.2", "OUTPUT_DIR", str(tmp_path / "b")),
        LOCAL_WORLD_SIZE="1",
        LOCAL_RANK="0",
    )
    assert [end.code for end in stopped] == [2, 2, 2]
    assert stopped[0].err.startswith("error: 3 of 12 training clips cannot be read, more than the share")
    assert stopped[1].err == stopped[2].err == ""


def test_a_run_of_two_processes_goes_on_with_another_number(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [
        *tiny_command,
        *WITHOUT_CHANCE,
        "TRAIN.BATCH_SIZE",
        "4",
        "GLOBAL_BATCH_SIZE",
        "4",
        "TEST.ENABLE",
        "False",
    ]
    moved = [*options, "OUTPUT_DIR", str(tmp_path / "moved")]
    assert ranks(2, command(tool, *moved, "SOLVER.MAX_EPOCH", "1"))[0].code == 0
    for ended in ranks(3, command(tool, *moved)):
        assert (ended.code, ended.err) == (0, "")
    log = (tmp_path / "moved" / "run.log").read_text()
    assert "going on from" in log
    assert "NUM_GPUS was" not in log
    assert "NUM_SHARDS was" not in log
    assert [line[1] for line in curve(tmp_path / "moved") if line[0] == "val_epoch"] == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_from_there_exactly(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path, number: int, code: int
) -> None:
    options = [*tiny_command, "TENSORBOARD.ENABLE", "False", "TEST.ENABLE", "False", "OUTPUT_DIR"]
    seed = train.seed_step

    def work(rank: int) -> int:
        def seed_and_stop(cfg: CfgNode, epoch: int, iteration: int) -> None:
            seed(cfg, epoch, iteration)
            if rank == 1 and (epoch, iteration) == (1, 1):
                os.kill(os.getpid(), number)

        train.seed_step = seed_and_stop
        return command(tool, *options, str(tmp_path / "stopped"))(rank)

    stopped = ranks(2, work)
    assert [end.code for end in stopped] == [code, code]
    assert [end.err.count("interrupted") for end in stopped] == [1, 0]
    names = {path.name for path in (tmp_path / "stopped/checkpoints").iterdir()}
    assert "checkpoint_epoch_00001_iteration_00000003.pyth" in names  # the wish is known to all a step later
    for name in ("stopped", "whole"):
        assert [end.code for end in ranks(2, command(tool, *options, str(tmp_path / name)))] == [0, 0]
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    weights = [
        torch.load(tmp_path / name / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)["model_state"]
        for name in ("stopped", "whole")
    ]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_compiled_processes_train_as_others_do_and_go_on_amid_an_epoch(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All that torch.compile does but to write and compile C++, which takes half a minute in each process.
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    options = [*tiny_command, *WITHOUT_CHANCE, "TRAIN.BATCH_SIZE", "4", "GLOBAL_BATCH_SIZE", "4"]
    options += ["TEST.ENABLE", "False", "OUTPUT_DIR"]
    compiled = [*options, str(tmp_path / "compiled"), "TRAIN.COMPILE", "True"]
    seed = train.seed_step

    def stop_in_the_second_epoch(rank: int) -> int:
        def seed_and_stop(cfg: CfgNode, epoch: int, iteration: int) -> None:
            seed(cfg, epoch, iteration)
            if rank == 1 and (epoch, iteration) == (1, 0):
                os.kill(os.getpid(), signal.SIGTERM)

        train.seed_step = seed_and_stop
        return go_on(rank)

    def go_on(rank: int) -> int:
        code = command(tool, *compiled)(rank)
        print(torch._dynamo.utils.counters["stats"]["unique_graphs"], "graph(s)")
        return code

    for code, work in ((143, stop_in_the_second_epoch), (0, go_on)):
        for ended in ranks(2, work):
            assert ended.code == code, ended.err
            assert ended.out.endswith("1 graph(s)\n")
    assert [end.code for end in ranks(2, command(tool, *options, str(tmp_path / "plain")))] == [0, 0]
    assert_alike(tmp_path / "plain", tmp_path / "compiled")
    log = (tmp_path / "compiled" / "run.log").read_text()
    assert "checkpoint_epoch_00001_iteration_00000002.pyth, after epoch 1 and 2 iterations of 2" in log


@pytest.mark.slow
def test_compiled_gradients_are_exchanged_while_the_backward_pass_goes_on(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def backward(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable:
        def run(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
            gradients = graph(*arguments)
            events.append("backward")
            return gradients

        return make_boxed_func(run)

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=backward)
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))

    def exchange(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        events.append("exchange")
        return allreduce_hook(state, bucket)

    def main() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(2600, 2600) for _ in range(3)))  # each more than DDP's bucket of 25 MB
        names = list(model.state_dict())
        forward = distributed.parallel(model, Compiled(model, 1))
        forward.register_comm_hook(None, exchange)
        for _ in range(3):  # DDP lays its buckets out in the first two
            events.clear()
            forward(torch.ones(1, 2600)).sum().backward()
        assert list(model.state_dict()) == names
        print(*events)

    for ended in ranks(2, in_ranks(main)):
        assert (ended.code, ended.err) == (0, "")
        order = ended.out.split()
        assert order.count("backward") > 1
        assert order.index("exchange") < len(order) - 1 - order[::-1].index("backward")


def test_a_signal_to_one_process_in_validation_stops_all_and_the_validation_is_done_again(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, *WITHOUT_CHANCE, "TEST.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "out")]
    score = train.evaluate

    def work(rank: int) -> int:
        def stop_and_score(*arguments: object) -> object:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGUSR2)
            return score(*arguments)

        train.evaluate = stop_and_score
        return command(tool, *options)(rank)

    assert [end.code for end in ranks(2, work)] == [75, 75]
    assert [line[0] for line in curve(tmp_path / "out")] == ["train_step"] * 6 + ["train_epoch"]
    assert [end.code for end in ranks(2, command(tool, *options))] == [0, 0]
    assert [line[1] for line in curve(tmp_path / "out") if line[0] == "val_epoch"] == [1, 2]


def test_minutes_between_checkpoints_are_those_of_the_lead(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"]
    save = checkpoint.save

    def work(rank: int, minutes: tuple[str, str]) -> int:
        def save_and_say(cfg: CfgNode, parts: dict, progress: checkpoint.Progress) -> Path:
            print("saved at", progress.iteration)
            return save(cfg, parts, progress)

        checkpoint.save = save_and_say
        output = ["TRAIN.CHECKPOINT_MINUTES", minutes[rank], "OUTPUT_DIR", str(tmp_path / minutes[0])]
        return command(tool, *options, *output)(rank)

    # All save when they know of the lead's wish, a step later.
    for minutes, iterations in ((("1e-6", "0"), [2, 3, 4, 5, 0]), (("0", "1e-6"), [0])):
        for ended in ranks(2, partial(work, minutes=minutes)):
            assert (ended.code, ended.err) == (0, "")
            said = [line.removeprefix("saved at ") for line in ended.out.splitlines() if line.startswith("saved at ")]
            assert list(map(int, said)) == [*iterations, 0]  # before the validation and after it
        names = sorted(path.name for path in (tmp_path / minutes[0] / "checkpoints").iterdir())
        assert names == ["best.pyth", "checkpoint_epoch_00001.pyth"]


# ---------------------------------------------------------------- failures


@pytest.mark.usefixtures("unhurried")
def test_the_first_failure_is_the_one_on_the_screen_and_ends_all(ranks: Ranks) -> None:
    def main() -> None:
        if dist_info().rank == 1:
            raise ValueError("nobody expected this")
        distributed.barrier()

    ended = ranks(3, in_ranks(main))
    assert [end.code for end in ended] == [1, 1, 1]
    assert ended[1].err.splitlines()[0] == "the run failed; what it wrote before is as it was"
    assert ended[1].err.splitlines()[-1] == "ValueError: nobody expected this"
    assert ended[0].err == ended[2].err == ""


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_failure_amid_training_is_told_by_the_one_that_has_it_alone(
    ranks: Ranks, tool: ModuleType, tiny_command: list[str], tmp_path: Path, victim: int
) -> None:
    def work(rank: int) -> int:
        def fail(*arguments: object) -> None:
            raise OSError("nobody expected this")

        if rank == victim:
            train.seed_step = fail
        return command(tool, *tiny_command, "OUTPUT_DIR", str(tmp_path / "out"))(rank)

    ended = ranks(2, work)
    assert [end.code for end in ended] == [1, 1]
    assert ended[victim].err.splitlines()[-1] == "OSError: nobody expected this"
    assert ended[1 - victim].err == ""
    log = tmp_path / "out" / ("run.log" if victim else "log/rank_1.log")
    assert "ended after another process: the run failed" in log.read_text()


@pytest.mark.usefixtures("unhurried")
def test_an_error_of_all_processes_is_told_once_by_the_lead(ranks: Ranks) -> None:
    def main() -> None:
        raise UserError("do better")

    ended = ranks(3, in_ranks(main))
    assert [(end.code, end.err) for end in ended] == [(2, "error: do better\n"), (2, ""), (2, "")]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(ranks: Ranks, victim: int) -> None:
    def main() -> None:
        if dist_info().rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = ranks(2, in_ranks(main))
    assert ended[victim].code == -signal.SIGKILL
    assert ended[1 - victim].code == 1
    assert ("cannot be reached any more" if victim == 0 else "RuntimeError") in ended[1 - victim].err


@pytest.mark.slow
def test_a_process_that_hangs_is_not_waited_for_longer_than_the_limit(ranks: Ranks) -> None:
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE = 0, False, False
    cfg.DIST_TIMEOUT = 10.0  # in which both have to join first
    has_ended = multiprocessing.get_context("fork").Event()

    def work(rank: int) -> int:
        def main(_: object) -> None:
            if rank == 1:
                has_ended.wait()
            distributed.barrier()

        code = run_and_report(lambda: launch(cfg, main))
        has_ended.set()
        return code

    ended = ranks(2, work)
    assert ended[0].code == 1
    assert "imed out" in ended[0].err


def test_processes_that_do_not_come_are_an_error_that_says_where_they_were_awaited(ranks: Ranks) -> None:
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE, cfg.DIST_TIMEOUT = 0, False, False, 1.0
    (ended,) = ranks(1, lambda rank: run_and_report(lambda: launch(cfg, print)), WORLD_SIZE="2", LOCAL_WORLD_SIZE="1")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: process 0 of 2 could not meet the others at tcp://127.0.0.1:")
    assert "docs/slurm.md" in ended.err
