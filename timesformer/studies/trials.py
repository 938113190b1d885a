"""The trials of a sweep, in a file that several commands share, with Optuna's samplers and pruners."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from timesformer.atomic import report_write_errors
from timesformer.errors import UserError
from timesformer.runtime.signals import defer_signals
from timesformer.studies.sweeps import Sweep, Values

if TYPE_CHECKING:
    import optuna

JOURNAL = "trials.journal"
MIN_FOR_IMPORTANCE = 10  # finished trials


class Trials:
    """The trials of one sweep; each is run by one command at a time.

    The file can contain several sweeps. A trial that was begun and is not finished is taken by the next command, unless
    another command still has it.

    Args:
        folder: folder of the file.
        sweep: what to vary.
        cells: keys of the cells of a trial without the varied options, which with `sweep` identify the sweep.
        max_epochs: epochs of the longest trial, for hyperband.
    """

    def __init__(self, folder: Path, sweep: Sweep, cells: Sequence[str], max_epochs: int) -> None:
        self.sweep = sweep
        self._folder = folder
        optuna = _import_optuna()
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._locks = (folder / "trials.lock").open("a+b")  # byte 0: the list of trials; N + 1: trial N
        self._taken: set[int] = set()
        content = [[(key, repr(values)) for key, values in sweep.space.items()], sweep.sampler, sweep.pruner]
        content += [sweep.seed if sweep.sampler != "grid" else None, list(cells)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]
        with self._locked():
            self.study = optuna.create_study(
                storage=_open_journal(folder / JOURNAL),
                pruner=_make_pruner(sweep, max_epochs),
                study_name=f"sweep-{digest}",
                direction="maximize",
                load_if_exists=True,
            )

    def all(self) -> list[optuna.trial.FrozenTrial]:
        """All trials in order, without combinations that are known in advance and not begun."""
        return self.study.get_trials(deepcopy=False)

    def begin(self) -> None:
        """Chooses the first trial, if there is none."""
        with self._locked():
            if not self.all():
                self._ask()

    def take(self) -> optuna.trial.Trial | None:
        """A trial to run: one that was begun, or else a new one; None if no other is left."""
        with self._locked():
            for found in self.all():
                if not found.state.is_finished() and self._lock(found.number):
                    return self._resume(found)
            if len(self.all()) >= self.sweep.trials:
                return None
            trial = self._ask()
            self._lock(trial.number)
            return trial

    def report(self, trial: optuna.trial.Trial, curve: Sequence[tuple[int, float]], max_epoch: int = 0) -> int | None:
        """Reports the validations of a trial, (epoch, top-1) in order.

        Returns the first epoch before `max_epoch` after which the pruner would end it; later ones are not reported.
        """
        with self._writing():
            known = self.all()[trial.number].intermediate_values
            for epoch, top1 in curve:
                if epoch not in known:
                    trial.report(top1, epoch)
                    if epoch < max_epoch and trial.should_prune():
                        return epoch
        return None

    def prune(self, trial: optuna.trial.Trial) -> None:
        """Records that a trial ends early."""
        with self._writing():
            self.study.tell(trial, state=_import_optuna().trial.TrialState.PRUNED)

    def finish(self, trial: optuna.trial.Trial, top1: float) -> None:
        """Records the validation accuracy of a finished trial."""
        with self._writing():
            self.study.tell(trial, top1)

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The finished trial with the highest validation accuracy, the first of equal ones."""
        done = [trial for trial in self.all() if trial.state.name == "COMPLETE"]
        return max(done, key=lambda trial: trial.value, default=None)

    def importance(self) -> dict[str, float]:
        """The share of each option in the variance of the accuracy of finished trials (fANOVA), largest first.

        Empty for a single option, equally accurate trials, or fewer than MIN_FOR_IMPORTANCE, of which the order is
        often incorrect.
        """
        values = [trial.value for trial in self.all() if trial.state.name == "COMPLETE"]
        if len(values) < MIN_FOR_IMPORTANCE or len(set(values)) == 1 or len(self.sweep.space) < 2:
            return {}
        importance = _import_optuna().importance
        evaluator = importance.FanovaImportanceEvaluator(seed=0)
        return importance.get_param_importances(self.study, evaluator=evaluator)

    def _ask(self) -> optuna.trial.Trial:
        """A new trial. Its values depend on the seed, its number and the results so far."""
        number = len(self.all())
        if self.sweep.combinations:
            self.study.enqueue_trial(self.sweep.combinations[number])
        self._seed(number)
        return self._suggest(self.study.ask())

    def _resume(self, found: optuna.trial.FrozenTrial) -> optuna.trial.Trial:
        optuna = _import_optuna()
        self._seed(found.number)
        if found.state == optuna.trial.TrialState.WAITING:  # the only one
            return self._suggest(self.study.ask())
        return self._suggest(optuna.trial.Trial(self.study, found._trial_id))

    def _seed(self, number: int) -> None:
        optuna = _import_optuna()
        if self.sweep.sampler == "tpe":
            seed = hashlib.sha256(f"{self.sweep.seed} {number}".encode()).digest()
            self.study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(seed[:4], "big"), constant_liar=True)

    def _suggest(self, trial: optuna.trial.Trial) -> optuna.trial.Trial:
        """Chooses the values that the trial does not have yet."""
        for key, values in self.sweep.space.items():
            if isinstance(values, Values):
                trial.suggest_categorical(key, list(dict.fromkeys(values.texts)))
            else:
                trial.suggest_float(key, values.low, values.high, log=values.is_log)
        return trial

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with defer_signals(), report_write_errors(self._folder, "choose another --output"):
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._writing():
            self._lock(-1, wait=True)
            try:
                yield
            finally:
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)

    def _lock(self, number: int, wait: bool = False) -> bool:
        """Locks a trial until the process ends; False if this or another command has it."""
        if number in self._taken:
            return False
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number + 1)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # the file system has no locks: one command at a time
            pass
        if number >= 0:
            self._taken.add(number)
        return True


def _import_optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise UserError("--sweep needs Optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _make_pruner(sweep: Sweep, max_epochs: int) -> optuna.pruners.BasePruner:
    pruners = _import_optuna().pruners
    if sweep.pruner == "median":
        return pruners.MedianPruner()
    if sweep.pruner == "hyperband":
        return pruners.HyperbandPruner(max_resource=max_epochs)
    return pruners.NopPruner()


def _open_journal(path: Path) -> optuna.storages.JournalStorage:
    """The storage, without the incomplete last line of a killed process."""
    storages = _import_optuna().storages
    lock = storages.journal.JournalFileOpenLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
        finally:
            lock.release()
    try:
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): move it away. The same command writes another one, and does not repeat "
            "finished cells"
        ) from error
