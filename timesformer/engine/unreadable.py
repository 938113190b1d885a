"""Clips that cannot be read: named once in the log, listed in `unreadable.csv`, and too many of them stop the run."""

import csv
import io
import logging
import math
from functools import cached_property
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors
from timesformer.datasets.records import Records
from timesformer.errors import UserError, shorten
from timesformer.runtime.distributed import all_gather_objects
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import unreadable_path
from timesformer.runtime.signals import defer_signals

logger = logging.getLogger(__name__)

_COLUMNS = ("name", "path", "split", "reason")
_LISTED = 20  # reasons in an error message; all of them are in the file


class UnreadableClips:
    """The clips of a split that could not be read.

    Each is named in the log and gets a line in OUTPUT_DIR/unreadable.csv as soon as it is found, unless an earlier part
    of the same run has listed it there. Of several processes, the lead does so for all, when they `exchange` what they
    found.

    Args:
        cfg: the configuration.
        split: "train", "val" or "test".
        records: of that split.

    Attributes:
        reasons: why, by name.
    """

    def __init__(self, cfg: CfgNode, split: str, records: Records) -> None:
        self.reasons: dict[str, str] = {}
        self._limit, self._stop = cfg.DATA.MAX_UNREADABLE_FRACTION, cfg.DATA.ON_UNREADABLE == "error"
        self._split, self._records, self._path = split, records, unreadable_path(cfg)
        of_the_split = "--force, which splits them anew," if cfg.TRAIN.DATASET == "hmdb_simp" else "--check"
        self._check = f"datasets/{cfg.TRAIN.DATASET}/prepare.py {of_the_split}"
        self._found: dict[int, str] = {}  # not yet told to the other processes

    def state_dict(self) -> dict[str, dict[str, str]]:
        """What a checkpoint keeps: the reasons by name."""
        return {"reasons": dict(self.reasons)}

    def load_state_dict(self, state: dict[str, dict[str, str]]) -> None:
        """Takes the reasons of a checkpoint over."""
        self.reasons.update(state.get("reasons", {}))

    def take(self, batch: dict[str, Any]) -> None:
        """Takes in what a batch of the loader says; errors as `note` and `refuse_unreplaced`."""
        self.note(batch["errors"])
        stands_for_a_clip = batch["video"] >= 0
        if (lost := batch["video"][stands_for_a_clip & ~batch["readable"]]).numel():
            self.refuse_unreplaced(int(lost[0]))

    def note(self, errors: dict[int, str]) -> None:
        """Take in the reasons why clips could not be read, by number of the record.

        Raises (of several processes, in `exchange`):
            UserError: if one is one too many (DATA.ON_UNREADABLE), or in training they are more than the share
                DATA.MAX_UNREADABLE_FRACTION of the split; or if the file cannot be written.
        """
        if dist_info().world_size > 1:
            self._found |= errors
        else:
            self._take(errors)

    def exchange(self) -> None:
        """Take in what all processes have found since the last time, each of which must call this; raises as `note`."""
        if dist_info().world_size > 1:
            found, self._found = all_gather_objects(self._found), {}
            self._take({number: reason for errors in found for number, reason in errors.items()})

    def _take(self, errors: dict[int, str]) -> None:
        rows = []
        for number, reason in errors.items():
            record = self._records[number]
            if record.name not in self.reasons and record.name not in self._listed:
                rows.append([record.name, record.path, self._split, reason.removeprefix(f"{record.path}: ")])
                if not self._stop:
                    outcome = (
                        "is replaced by another clip of its class" if self._split == "train" else "counts as a miss"
                    )
                    logger.warning("%s %s: %s", record.name, outcome, reason)
            self.reasons[record.name] = reason
        if rows and is_main_process():
            self._append(rows)
        if errors:
            self._stop_where_asked(errors)

    def refuse_unreplaced(self, video: int) -> None:
        """Raises a UserError over a training clip in whose place no other could be read."""
        self._take(self._found)
        record = self._records[video]
        raise UserError(
            f"{record.name} cannot be read, and none of its class could be read in its place:\n  "
            + shorten([self.reasons[record.name], *self.reasons.values()], "\n  ", _LISTED)
            + "\nmend them or take them out of the split; check that the clips in DATA.PATH_TO_DATA_DIR are whole"
        )

    @cached_property
    def _listed(self) -> set[str]:
        """Names in the file; looked up when first needed, as an earlier run's may be set aside until then."""
        if not self._path.exists():
            return set()
        listed = set()
        with (
            report_write_errors(self._path),
            self._path.open(newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            try:
                listed.update(row.get("name", "") for row in csv.DictReader(file) if row.get("split") == self._split)
            except csv.Error as error:
                logger.warning("%s: %s; clips that stand after that may come twice", self._path, error)
        return listed

    def _append(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(rows if self._path.exists() else [_COLUMNS, *rows])
        with defer_signals(), report_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:  # in one piece, so that a killed process leaves whole lines
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def _stop_where_asked(self, errors: dict[int, str]) -> None:
        if self._stop:
            raise UserError(
                f"a clip of the {self._split} split cannot be read: {next(iter(errors.values()))}\nmend it or take it "
                "out of the split, or set DATA.ON_UNREADABLE continue"
            )
        clips, share = len(self._records), len(self.reasons) / len(self._records)
        if self._split == "train" and share > self._limit:
            raise UserError(
                f"{len(self.reasons)} of {clips} training clips cannot be read, more than the share "
                f"DATA.MAX_UNREADABLE_FRACTION {self._limit} allows; mend them or take them out of the split "
                f"(they are listed in {self._path}), or set DATA.MAX_UNREADABLE_FRACTION "
                f"{math.ceil(100 * share) / 100} or more (there may be others: {self._check} looks at all "
                "clips at once):"
                "\n  " + shorten(sorted(self.reasons.values()), "\n  ", _LISTED)
            )
