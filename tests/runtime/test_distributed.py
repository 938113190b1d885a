"""Collectives, data-parallel training, and how processes fail together."""

import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from tests.processes import Ranks, launched
from timesformer.config import get_cfg
from timesformer.engine.model_wrappers import CompiledForward
from timesformer.errors import UserError
from timesformer.runtime import distributed
from timesformer.runtime.ranks import DistInfo, dist_info

pytestmark = pytest.mark.slow


def test_collectives(ranks: Ranks) -> None:
    def main() -> None:
        rank = dist_info().rank
        distributed.barrier()
        largest = torch.tensor([rank, -rank])
        distributed.all_reduce(largest, "max")
        delayed = distributed.DelayedMax()
        found = [
            distributed.all_reduce_sum(torch.tensor(rank), 0.5),
            distributed.all_gather_objects({rank: "x" * rank}),
            largest.tolist(),
            distributed.from_main_process(lambda: f"of {rank}"),
            [*map(delayed.exchange, [0, 3 if rank == 1 else 0, 1, 0]), delayed.wait()],
            distributed.all_reduce_max(-rank),
        ]
        print(json.dumps(found))

    expected = [[3.0, 1.5], [{"0": ""}, {"1": "x"}, {"2": "xx"}], [2, 0], "of 0", [0, 0, 3, 1, 0], 0]
    for ended in ranks(3, launched(main)):
        assert (ended.code, ended.err, json.loads(ended.out)) == (0, "", expected)


class Net(nn.Module):
    """Has trained, frozen and unused parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.frozen, self.unused, self.last = (nn.Linear(4, 4) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.frozen(self.first(x)).relu())


def train(part: slice) -> list[Tensor]:
    """Weights after four steps of three batches each, of which this process has a part."""
    model = Net()
    forward = distributed.parallel(model, model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    batches = torch.randn(4, 3, 6, 4, generator=torch.Generator().manual_seed(1))

    def backward(batch: Tensor) -> None:
        (forward(batch[part]).square().sum() * dist_info().world_size / 18).backward()

    for *accumulated, last in batches:
        for batch in accumulated:
            with distributed.no_sync(forward):
                backward(batch)
        backward(last)
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters())


@pytest.mark.numerical
def test_accumulated_gradients_equal_those_of_one_process(ranks: Ranks, tmp_path: Path) -> None:
    def main() -> None:
        torch.save(train(slice(0, 2) if dist_info().rank == 0 else slice(2, 6)), tmp_path / "weights.pt")

    ended = ranks(2, launched(main))
    assert [end.code for end in ended] == [0, 0], ended
    for mine, theirs in zip(train(slice(None)), torch.load(tmp_path / "weights.pt"), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)


def test_batch_norm_statistics_are_averaged_by_clips_except_in_evaluation_mode(ranks: Ranks) -> None:
    def main() -> None:
        rank, model = dist_info().rank, nn.ModuleList([nn.BatchNorm1d(1), nn.BatchNorm1d(1), nn.InstanceNorm1d(1)])
        model[1].eval()
        for norm in model[:2]:
            norm.running_mean.fill_(rank)
            norm.running_var.fill_(10.0 * rank)
        distributed.average_batch_norm(model, [0.0, 0.25, 0.75][rank])
        print([buffer.item() for norm in model[:2] for buffer in (norm.running_mean, norm.running_var)])

    for rank, ended in enumerate(ranks(3, launched(main))):
        assert (ended.out, ended.err) == (f"{[1.75, 17.5, float(rank), 10.0 * rank]}\n", "")


def test_compiled_gradients_are_exchanged_during_the_backward_pass(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def compile_backward(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        return make_boxed_func(lambda *arguments: (graph(*arguments), events.append("backward"))[0])

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=compile_backward)
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))

    def exchange(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        events.append("exchange")
        return allreduce_hook(state, bucket)

    def main() -> None:
        model = nn.Sequential(*(nn.Linear(2600, 2600) for _ in range(3)))  # each more than DDP's bucket of 25 MB
        forward = distributed.parallel(model, CompiledForward(model, 1))
        forward.register_comm_hook(None, exchange)
        for _ in range(3):  # DDP arranges its buckets in the first two
            events.clear()
            forward(torch.ones(1, 2600)).sum().backward()
        print(*events)

    for ended in ranks(2, launched(main)):
        assert (ended.code, ended.err) == (0, "")
        order = ended.out.split()
        assert order.index("exchange") < len(order) - 1 - order[::-1].index("backward")


# ---------------------------------------------------------------- failures


@pytest.mark.usefixtures("unhurried")
def test_only_the_first_failure_is_reported(ranks: Ranks) -> None:
    def main() -> None:
        if dist_info().rank == 1:
            raise ValueError("unexpected")
        distributed.barrier()

    ended = ranks(3, launched(main))
    assert [end.code for end in ended] == [1, 1, 1]
    assert ended[1].err.splitlines()[-1] == "ValueError: unexpected"
    assert ended[0].err == ended[2].err == ""


@pytest.mark.usefixtures("unhurried")
def test_rank_0_reports_an_error_of_all_ranks(ranks: Ranks) -> None:
    def main() -> None:
        raise UserError("expected")

    ended = ranks(3, launched(main))
    assert [(end.code, end.err) for end in ended] == [(2, "error: expected\n"), (2, ""), (2, "")]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(ranks: Ranks, victim: int) -> None:
    def main() -> None:
        if dist_info().rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = ranks(2, launched(main))
    assert ended[victim].code == -signal.SIGKILL
    assert ended[1 - victim].code == 1
    assert ended[1 - victim].err


def test_a_hanging_process_is_not_waited_for_beyond_the_timeout(ranks: Ranks) -> None:
    has_ended = multiprocessing.get_context("fork").Event()

    def main() -> None:
        if dist_info().rank == 1:
            has_ended.wait()
        distributed.barrier()

    def work(rank: int) -> int:
        code = launched(main, timeout=10.0)(rank)
        has_ended.set()
        return code

    ended = ranks(2, work)
    assert ended[0].code == 1
    assert "imed out" in ended[0].err


def test_missing_processes_are_an_error_that_names_the_address(ranks: Ranks) -> None:
    (ended,) = ranks(1, launched(print, timeout=1.0), WORLD_SIZE="2", LOCAL_WORLD_SIZE="1")
    assert ended.code == 2
    assert "tcp://127.0.0.1:" in ended.err


def test_too_few_gpus_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cfg = get_cfg()
    cfg.NUM_GPUS = 4
    with pytest.raises(UserError, match="NUM_GPUS 2"):
        distributed.init_process_group(cfg, DistInfo(0, 4, 0, 4), "file:///nowhere")
