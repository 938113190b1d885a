"""Tests a checkpoint on the test set of its dataset, without training.

timesformer test --checkpoint output/demo
timesformer test --checkpoint best.pyth DATA.PATH_TO_DATA_DIR /new/place TEST.NUM_ENSEMBLE_VIEWS 5
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.arguments import Parser, add_import, as_path, as_source, parse_intermixed
from timesformer.commands.train import run
from timesformer.config import ConfigError, check
from timesformer.config.load import load_for_use
from timesformer.config.options import OPTIONS, set_option
from timesformer.runtime.launch import launch, run_and_report
from timesformer.runtime.run_folder import CHECKPOINTS
from timesformer.runtime.signals import install_signal_handlers


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=as_source, required=True, metavar="FILE", help="best.pyth, the folder of a run, ...")
    add("--cfg", type=as_path, metavar="YAML", help="configuration, instead of that in the checkpoint")
    add_import(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="override the configuration, such as where data are")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_intermixed(make_parser(), "opts", arguments)
    install_signal_handlers()
    return run_and_report(lambda: launch(configuration(args), run))


def configuration(args: argparse.Namespace) -> CfgNode:
    """The checkpoint's configuration, for a test only; OUTPUT_DIR is the folder of its run if it is in one."""
    from timesformer.models.weights.loading import CheckpointError, read_checkpoint

    checkpoint = read_checkpoint(args.checkpoint)
    source, saved = str(checkpoint.source), checkpoint.rest.get("cfg")
    if args.cfg is None and not isinstance(saved, str):
        raise CheckpointError(f"{source} holds no configuration: give its YAML file with --cfg")
    fixed = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "TEST.CHECKPOINT_FILE_PATH", source]
    if Path(source).parent.name == CHECKPOINTS:
        fixed += ["OUTPUT_DIR", str(Path(source).parents[1])]
    cfg, _ = load_for_use(saved or "", f"configuration in {source}", args.cfg, [*fixed, *args.opts])
    for key, option in OPTIONS.items():  # a default of an earlier version would be refused where it has no effect
        if key not in args.opts[::2] and not option.is_read(cfg):
            set_option(cfg, key, option.default)
    cfg.IMPORTS = list(dict.fromkeys([*cfg.IMPORTS, *args.imports]))
    if problems := check(cfg):
        raise ConfigError(problems)
    return cfg
