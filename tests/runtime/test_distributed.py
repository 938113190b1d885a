"""Collectives, data-parallel training, and how processes fail together."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch import distributed as dist
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from tests.processes import Ranks, launched
from timesformer.errors import UserError
from timesformer.models.wrappers import CompiledForward
from timesformer.runtime import distributed
from timesformer.runtime.ranks import dist_info

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


def test_gradients_of_a_compiled_model_are_exchanged_during_the_backward_pass(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def compile_backward(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        return make_boxed_func(lambda *arguments: (graph(*arguments), events.append("backward"))[0])

    def exchange(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        events.append("exchange")
        return allreduce_hook(state, bucket)

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=compile_backward)
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))

    def main() -> None:
        model = nn.Sequential(*(nn.Linear(2600, 2600) for _ in range(2)))  # each more than DDP's bucket of 25 MB
        names = list(model.state_dict())
        forward = distributed.parallel(model, CompiledForward(model, 1))
        forward.register_comm_hook(None, exchange)
        for _ in range(3):  # DDP assigns the buckets in the first two
            events.clear()
            forward(torch.ones(1, 2600)).sum().backward()
        assert list(model.state_dict()) == names
        print(*events)

    for ended in ranks(2, launched(main)):
        assert (ended.code, ended.err) == (0, "")
        order = ended.out.split()
        assert order.count("backward") > 1
        assert "backward" in order[order.index("exchange") :]


@pytest.mark.usefixtures("unhurried")
def test_only_the_first_failure_is_reported(ranks: Ranks) -> None:
    def main() -> None:
        distributed.barrier()  # all have joined
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
        distributed.barrier()  # all have joined
        raise UserError("expected")

    ended = ranks(3, launched(main))
    assert [(end.code, end.err) for end in ended] == [(2, "error: expected\n"), (2, ""), (2, "")]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(ranks: Ranks, victim: int) -> None:
    def main() -> None:
        distributed.barrier()  # all have joined
        if dist_info().rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = ranks(2, launched(main))
    assert ended[victim].code == -signal.SIGKILL
    assert ended[1 - victim].code == 1
    assert ended[1 - victim].err


def test_missing_processes_are_an_error_that_names_the_address(ranks: Ranks) -> None:
    (ended,) = ranks(1, launched(print, timeout=1.0), WORLD_SIZE="2", LOCAL_WORLD_SIZE="1")
    assert ended.code == 2
    assert "tcp://127.0.0.1:" in ended.err
