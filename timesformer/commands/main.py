"""The installed command `timesformer COMMAND ...`; imports a command only when it runs."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from timesformer import __version__
from timesformer.commands.command import run_command

COMMANDS = {
    "train": "train, validate and test a model with the options of a configuration",
    "test": "test a checkpoint on its test set",
    "predict": "predict the classes of videos with a trained model",
    "visualize": "show where a model looks in a video",
    "report": "write the report of a run, a comparison of several, or figures",
    "prepare": "download, re-encode, check or split a dataset",
    "preview": "show the learning rates and augmented clips of a training before it runs",
    "convert": "write a checkpoint in another format",
    "export": "export a trained model to ONNX, OpenVINO or torch.export",
    "app": "serve a web page that predicts uploaded videos",
    "serve": "serve an HTTP interface that predicts uploaded videos",
    "reproduce": "run a study or a sweep, in tables next to published results",
    "benchmark": "measure the speed and memory of models, training and data",
    "robustness": "test a checkpoint under noise, blur, compression and other frame orders",
    "analyze": "add sections about single clips to the report of a run",
    "configs": "list the configurations that come with this package",
    "submit": "submit a run to a Slurm cluster",
    "completion": "print the script that completes commands in bash, zsh or fish",
}
"""What `timesformer --help` lists; each command is a module of this package."""


def main(arguments: Sequence[str] | None = None) -> int:
    if "_ARGCOMPLETE" in os.environ:
        from timesformer.commands.completion import complete

        complete(COMMANDS)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        return run_command(lambda: print(_help()) or (0 if words else 2))
    if words[0] == "--version":
        print(f"timesformer {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: {command} is not a command of timesformer; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"timesformer {command}", *rest]  # argparse's name of the program
    return import_module(f"timesformer.commands.{command}").main()


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    usage = "usage: timesformer COMMAND ...\n\nTrains, tests and uses video transformers.\n"
    last = "`timesformer COMMAND --help` lists the options of a command; `timesformer --version` prints the version."
    return "\n".join([usage, *lines, "", last])
