"""The pass of a frozen backbone over the clips of a split, once per clip and view."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timesformer.datasets.clips import ClipDataset, ClipMaker, clip_rng, make_item
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.loader import batch_loader
from timesformer.datasets.records import DatasetSplit
from timesformer.datasets.transforms.sampling import Sampler, VideoInfo
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.errors import UserError
from timesformer.features.keys import describe, digest, view_keys, view_seed
from timesformer.features.store import FeatureStore, RowWriter, folder_bytes
from timesformer.paths import cache_folder
from timesformer.runtime import distributed
from timesformer.runtime.device import autocast, choose_device, clips_at_once, prefetch_to_device
from timesformer.runtime.logging import STEP, duration, progress_bar
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.signals import requested_signal, stop_if_requested

logger = logging.getLogger(__name__)

Report = Callable[[dict[int, str]], object]

_MAX_MISSING = 0.1
_LENGTHS = (1, 8, 100, 10_000)  # of videos, in frames
_LINE_EVERY = 30.0  # seconds


class ViewDataset(ClipDataset):
    """Views of videos, `items` of (video, view). Training views are augmented, and seeded by name and FEATURES.SEED."""

    def __init__(self, cfg: CfgNode, split: str, found: DatasetSplit, items: list[tuple[int, int]]) -> None:
        super().__init__(cfg, split, found)
        self._items, self._seed_of_views = items, cfg.FEATURES.SEED

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        video, view = self._items[key[1] if isinstance(key, tuple) else key]
        label, view_of_clip = int(self.records.labels[video]), 0 if self.training else view
        rng = clip_rng(*view_seed(self._seed_of_views, self.records.names[video], view))
        try:
            clip = self.load_view(video, view_of_clip, rng)
        except VideoError as error:
            return make_item(self.maker.padding_clip(), label, video, view, False, {video: str(error)})
        return make_item(clip, label, video, view, True, {})


class Features:
    """The features of every video of a split: input of the head, float16, for `num_views` views.

    `shape` is that of a view; `problems` holds by number why videos could not be read; their features are 0.
    """

    def __init__(self, store: FeatureStore, places: np.ndarray, problems: dict[int, str]) -> None:
        self.shape, self.problems = store.shape, problems
        self._store, self._places = store, places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_views(self) -> int:
        return self._places.shape[1]

    def take(self, videos: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Features, float16 [n, *shape], of the views `views` [n] of the videos `videos` [n]."""
        return self._store.take(self._places[videos, views])


def find_features(cfg: CfgNode, model: nn.Module, split: str, found: DatasetSplit) -> Features | None:
    """The cached features of a split; None if more than a tenth of them are missing.

    The others, of clips that could not be read, are tried again. All processes must call this together.
    """
    request = _Request(cfg, model, split, found)
    missing = distributed.from_main_process(lambda: len(request.missing()))
    if missing > _MAX_MISSING * len(found.records) * request.num_views:
        return None
    return request.complete(lambda _: None) if missing else request.features({})


def compute_features(
    cfg: CfgNode, model: nn.Module, split: str, found: DatasetSplit, report_unreadable: Report
) -> Features:
    """The features of a split ("train", "val" or "test"), from the cache, else computed by a model on its device.

    FEATURES.NUM_VIEWS augmented views of a training clip, the usual views of a validation or test clip. All processes
    must call this together, and share the work, also with other runs that need the same features at the same time.
    `report_unreadable` gets the reasons why clips cannot be read, by number. Raises UserError, also for a model without
    `head_input`, for views that a sampler draws at random in validation or test, and if the cache cannot be written.
    """
    return _Request(cfg, model, split, found).complete(report_unreadable)


class _Request:
    """The views of a split whose features are wanted."""

    def __init__(self, cfg: CfgNode, model: nn.Module, split: str, found: DatasetSplit) -> None:
        self.cfg, self.model, self.split, self.found = cfg, model, split, found
        maker = ClipMaker(cfg, split)
        if not hasattr(model, "head_input"):
            raise UserError(f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} has no head_input: set FEATURES.ENABLED False")
        if not maker.training and _draws(maker.sampler):
            raise UserError(
                f"the {split} clips are sampled at random ({maker.sampler.name}), expected the same clips each time "
                "with FEATURES.ENABLED: set another DATA.TEST_SAMPLER or DATA.SAMPLER_START"
            )
        self.num_views = cfg.FEATURES.NUM_VIEWS if maker.training else maker.num_views
        description = describe(cfg, model, maker)
        self.root = Path(cfg.FEATURES.CACHE_DIR) if cfg.FEATURES.CACHE_DIR else cache_folder() / "features"
        self.store = FeatureStore(self.root / digest(description), description)
        self.keys = distributed.from_main_process(lambda: view_keys(found.records, self.num_views))

    def complete(self, report_unreadable: Report) -> Features:
        """The features, after computing the missing ones together with other runs that need them."""
        problems: dict[int, str] = {}
        missing = distributed.from_main_process(self.missing)
        if missing:
            problems = self.compute(missing, report_unreadable)
        self.store.refresh()
        features = self.features(problems)
        if is_main_process():
            size, total = (folder_bytes(folder) / 2**20 for folder in (self.store.folder, self.root))
            logger.info(
                f"{self.split} features: {len(self.found.records)} clips x {self.num_views} "
                f"view{'s' * (self.num_views != 1)} of "
                f"{list(features.shape)}, {len(missing) - len(problems)} new; {self.store.folder} has {size:.1f} MiB, "
                f"the whole cache {total:.1f}"
            )
        return features

    def missing(self) -> list[tuple[int, int]]:
        """The (video, view) without features."""
        numbers = {key: (video, view) for video, keys in enumerate(self.keys) for view, key in enumerate(keys)}
        return [numbers[key] for key in self.store.missing(numbers)]

    def features(self, problems: dict[int, str]) -> Features:
        if not self.store.shape:
            reason = next(iter(problems.values()), "")
            raise UserError(f"none of the {len(self.keys)} {self.split} clips can be read: {reason}")
        places = np.array([[self.store.locate(key) for key in keys] for keys in self.keys], np.int64)
        lost = set(np.flatnonzero((places < 0).any(axis=(1, 2))).tolist()) - problems.keys()
        if lost:
            path = self.found.records[min(lost)].path
            raise UserError(
                f"process {dist_info().rank} finds no features of {path} in {self.store.folder}: set "
                "FEATURES.CACHE_DIR to a folder shared by all nodes"
            )
        return Features(self.store, places, problems)

    def compute(self, missing: list[tuple[int, int]], report_unreadable: Report) -> dict[int, str]:
        """Computes and writes the features of (video, view); returns why videos could not be read, by number.

        Features that other runs are computing are left to these; returns when all are there.
        """
        cfg, device, rank, world_size = self.cfg, choose_device(self.cfg), dist_info().rank, dist_info().world_size
        dataset = ViewDataset(cfg, self.split, self.found, missing)
        loader = batch_loader(cfg, dataset, cfg.TEST.BATCH_SIZE * cfg.NUM_SHARDS, rank, world_size)
        logger.info("computing features of %d views of %s clips on %s", len(missing), self.split, device)
        problems: dict[int, str] = {}
        todo: dict[int, list[int]] = {}  # numbers of missing views by part, on the main process
        for number, (video, view) in enumerate(missing):
            todo.setdefault(self.store.part(self.keys[video][view]), []).append(number)
        rate, waiting, training = _Rate(), False, self.model.training
        self.model.eval()
        with report_worker_death(loader), self.store.writer() as writer:
            while True:
                with ExitStack() as locks:
                    claim = partial(self._claim, locks, todo, missing)
                    views, left = distributed.from_main_process(claim)
                    if not left:
                        break
                    if views:
                        loader.batch_sampler.select(np.array(views))
                        problems |= self._compute_selected(loader, writer, report_unreadable, rate, left)
                    elif not waiting:
                        logger.info("other runs compute the last features in %s; waiting for them", self.store.folder)
                        waiting = True
                    stop_if_requested(distributed.all_reduce_max(requested_signal()))
        self.model.train(training)
        return {video: reason for found in distributed.all_gather_objects(problems) for video, reason in found.items()}

    def _claim(
        self, locks: ExitStack, todo: dict[int, list[int]], missing: list[tuple[int, int]]
    ) -> tuple[list[int], int]:
        """Locks some parts of `todo`, and removes them and all parts completed by other runs.

        Returns the views of the locked parts, by number in `missing`, and how many are left with these.
        """
        if not todo:
            return [], 0
        claimed = locks.enter_context(self.store.claim(list(todo)))
        self.store.refresh()
        for part, numbers in todo.items():
            keys = {self.keys[video][view]: number for number in numbers for video, view in [missing[number]]}
            todo[part] = [keys[key] for key in self.store.missing(keys)]
        left = sum(map(len, todo.values()))
        views = sorted(number for part in claimed for number in todo.pop(part))
        for part in [part for part, numbers in todo.items() if not numbers]:
            del todo[part]
        return views, left

    def _compute_selected(
        self, loader: DataLoader, writer: RowWriter, report_unreadable: Report, rate: "_Rate", left: int
    ) -> dict[int, str]:
        """Computes and writes the features of the loader's views; returns why videos could not be read, by number."""
        device, world_size = choose_device(self.cfg), dist_info().world_size
        problems: dict[int, str] = {}
        requests, common_batches = distributed.DelayedMax(), -distributed.all_reduce_max(-len(loader))
        loaded = progress_bar(loader, f"{self.split} features", may_stop=lambda: world_size == 1)
        for index, batch in enumerate(prefetch_to_device(loaded, device)):
            if index < common_batches:  # a process may have one batch less
                stop_if_requested(requests.exchange(requested_signal()))
            problems |= batch["errors"]
            report_unreadable(batch["errors"])
            readable = batch["readable"]
            if readable.any():
                rows = self._rows(batch["clip"][readable.to(device)], device)
                pairs = zip(batch["video"][readable].tolist(), batch["view"][readable].tolist(), strict=True)
                writer.add([self.keys[video][view] for video, view in pairs], rows)
            left -= len(readable) * world_size
            rate.add(len(readable) * world_size)
            if rate.is_due():
                logger.log(STEP, f"{self.split} features: {rate.describe(max(left, 0))}")
        requests.wait()
        return problems

    @torch.inference_mode()
    def _rows(self, clips: Tensor, device: torch.device) -> np.ndarray:
        with autocast(self.cfg, device):
            parts = clips_at_once(normalize_clips(clips, self.cfg, device))
            head_input = torch.cat([self.model.head_input(part) for part in parts])
        rows = head_input.float().cpu().numpy().astype(np.float16)
        if not np.isfinite(rows).all():
            raise UserError("the backbone's features are not finite in float16: check its weights")
        return rows


class _Rate:
    """Views per second of a pass, for a line every half minute."""

    def __init__(self) -> None:
        self._done = 0
        self._start = self._logged = time.monotonic()

    def add(self, views: int) -> None:
        self._done += views

    def is_due(self) -> bool:
        return time.monotonic() - self._logged > _LINE_EVERY

    def describe(self, left: int) -> str:
        self._logged = time.monotonic()
        rate = self._done / (self._logged - self._start)
        return f"{self._done} views, {rate:.1f} views/s, {duration(left / rate)} to go"


def _draws(sampler: Sampler) -> bool:
    """Whether a sampler draws random numbers."""
    for length in _LENGTHS:
        rng = RandomState(0)
        sampler.positions(VideoInfo(length, sampler.target_fps), rng)
        if rng.rand() != RandomState(0).rand():
            return True
    return False
