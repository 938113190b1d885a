"""The clips that the tests of the datasets make, and a replacement for processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.datasets.conftest import cfg, hmdb_root, make_frames, make_video  # noqa: F401
from timesformer.datasets.workers.pool import Outcome
from timesformer.errors import UserError
from timesformer.preparation import check, convert


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The items of `in_processes` so far, which calls the function in this process."""
    items_so_far: list[Any] = []

    def run(function: Callable[[Any], Any], items: Sequence[Any], *options: Any) -> Iterator[Outcome]:
        for item in items:
            items_so_far.append(item)
            try:
                yield Outcome(item, function(item))
            except UserError as error:
                yield Outcome(item, problem=str(error))

    for module in (check, convert):
        monkeypatch.setattr(module, "in_processes", run)
    return items_so_far
