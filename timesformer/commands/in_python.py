"""Commands as functions, for notebooks and scripts."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.commands.train import run
from timesformer.config import ConfigError, check
from timesformer.config.load import load_config, override
from timesformer.errors import UserError
from timesformer.runtime.launch import refuse_launcher
from timesformer.runtime.signals import signal_handlers


def train(config: str | Path | CfgNode, options: Mapping[str, object] | None = None) -> Path:
    """Trains, validates and tests a model in this process, as `timesformer train` does; returns the folder of the run.

    `load_model` takes this folder, which also has results.json, predictions.csv and report.html. An interruption saves
    the run, and the same call resumes it.

    Args:
        config: YAML file, a name of `list_configs`, or what `load_config` returns.
        options: values that override those of the configuration, by key, such as {"DATA.PATH_TO_DATA_DIR": "clips"}.

    Raises:
        UserError: if an option or the data are invalid, or more than one process is needed.
        KeyboardInterrupt: if the run was interrupted.
    """
    refuse_launcher("train in Python is one process")
    changes = [str(word) for item in (options or {}).items() for word in item]
    if isinstance(config, CfgNode):
        cfg = override(config, changes)
        if problems := check(cfg):
            raise ConfigError(problems)
    else:
        cfg = load_config(config, changes)
    for key in ("NUM_GPUS", "NUM_SHARDS"):
        if cfg[key] > 1:
            raise UserError(f"{key} is {cfg[key]}, expected 1 in Python: use the command timesformer train")
    with signal_handlers(), _restored_logging():
        run(cfg)
    return Path(cfg.OUTPUT_DIR)


@contextmanager
def _restored_logging() -> Iterator[None]:
    log = logging.getLogger("timesformer")
    handlers, propagate, level = log.handlers, log.propagate, log.level
    try:
        yield
    finally:
        for handler in log.handlers:
            if handler not in handlers:
                handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
