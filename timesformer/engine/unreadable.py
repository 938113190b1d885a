"""Unreadable clips: logged once, listed in `unreadable.csv`, and an error if there are too many."""

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
from timesformer.runtime.subcommands import suggest_command

logger = logging.getLogger(__name__)

_COLUMNS = ("name", "path", "split", "reason")
_LISTED = 20  # reasons in an error message


class UnreadableClips:
    """The unreadable clips of a split; `reasons` are by name of the clip.

    Each is logged and appended to OUTPUT_DIR/unreadable.csv, unless the file lists it already; with several processes,
    in `exchange`.
    """

    def __init__(self, cfg: CfgNode, split: str, records: Records) -> None:
        self.reasons: dict[str, str] = {}
        self._data, self._split, self._records, self._path = cfg.DATA, split, records, unreadable_path(cfg)
        self._pending: dict[int, str] = {}  # not exchanged yet

    def state_dict(self) -> dict[str, dict[str, str]]:
        return {"reasons": dict(self.reasons)}

    def load_state_dict(self, state: dict[str, dict[str, str]]) -> None:
        self.reasons.update(state.get("reasons", {}))

    def record(self, errors: dict[int, str]) -> None:
        """Records the reasons why clips could not be read, by record number.

        Raises a UserError (with several processes, in `exchange`) with DATA.ON_UNREADABLE error, and for more than
        DATA.MAX_UNREADABLE_FRACTION of the training clips.
        """
        self._pending |= errors
        if dist_info().world_size == 1:
            self.exchange()

    def record_known(self) -> None:
        """Records the clips that the manifest knows to be unreadable; all processes must call this together."""
        self.record({n: f"{self._records[n].path}: {problem}" for n, problem in self._records.problems.items()})
        self.exchange()

    def record_batch(self, batch: dict[str, Any]) -> None:
        """Records the errors of a training batch; raises as `record`, and if a clip could not be replaced."""
        self.record(batch["errors"])
        if (lost := batch["video"][(batch["video"] >= 0) & ~batch["readable"]]).numel():
            self._report(self._pending)
            name = self._records[int(lost[0])].name
            reasons = shorten([self.reasons[name], *self.reasons.values()], "\n  ", _LISTED)
            raise UserError(
                f"{name} cannot be read, and no other clip of its class could replace it. Check DATA.PATH_TO_DATA_DIR, "
                f"and fix them or remove them from the split:\n  {reasons}"
            )

    def exchange(self) -> None:
        """Shares new reasons with all processes, which must call this together; raises as `record`."""
        found, self._pending = all_gather_objects(self._pending), {}
        self._report({number: reason for errors in found for number, reason in errors.items()})

    def _report(self, errors: dict[int, str]) -> None:
        rows = []
        for number, reason in errors.items():
            record = self._records[number]
            if record.name not in self.reasons and record.name not in self._listed:
                rows.append([record.name, record.path, self._split, reason.removeprefix(f"{record.path}: ")])
                effect = "is replaced by another clip of its class" if self._split == "train" else "counts as wrong"
                logger.warning("%s is unreadable and %s: %s", record.name, effect, reason)
            self.reasons[record.name] = reason
        if rows and is_main_process():
            self._append(rows)
        if errors and self._data.ON_UNREADABLE == "error":
            raise UserError(
                f"a clip of the {self._split} split cannot be read: {next(iter(errors.values()))}\nFix it or remove it "
                "from the split, or set DATA.ON_UNREADABLE continue"
            )
        fraction, limit = len(self.reasons) / max(len(self._records), 1), self._data.MAX_UNREADABLE_FRACTION
        if errors and self._split == "train" and fraction > limit:
            check = suggest_command("prepare", "folder", self._data.PATH_TO_DATA_DIR, "--check")
            raise UserError(
                f"{len(self.reasons)} of {len(self._records)} training clips cannot be read, more than "
                f"DATA.MAX_UNREADABLE_FRACTION {limit} allows. Fix or remove them (they are listed in {self._path}; "
                f"`{check}` finds all of them), or set DATA.MAX_UNREADABLE_FRACTION "
                f"{math.ceil(100 * fraction) / 100}:\n  " + shorten(sorted(self.reasons.values()), "\n  ", _LISTED)
            )

    @cached_property
    def _listed(self) -> set[str]:
        """Names in the file; read when first needed, because the file of an earlier run is set aside first."""
        if not self._path.exists():
            return set()
        with self._path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {row.get("name", "") for row in csv.DictReader(file) if row.get("split") == self._split}

    def _append(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(rows if self._path.exists() else [_COLUMNS, *rows])
        with defer_signals(), report_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:  # in one piece, so that a killed process leaves whole lines
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))
