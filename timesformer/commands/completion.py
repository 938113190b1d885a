"""Prints the script that completes commands, options, shipped configurations and keys in a shell (docs/commands.md).

source <(timesformer completion bash)    # and zsh
timesformer completion fish | source
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from timesformer.arguments import Parser
from timesformer.commands.command import run_command

SHELLS = ("bash", "zsh", "fish")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("shell", choices=SHELLS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["timesformer"], shell=args.shell))
    return 0


def complete(commands: Iterable[str]) -> None:
    """Answers a shell that completes a command line, which it gives in COMP_LINE, and exits."""
    import argcomplete

    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = line.split()
    if len(words) + line.endswith(" ") > 2 and words[1] in commands:
        os.environ["_ARGCOMPLETE"] = "2"  # the program's name is the first two words
        module = import_module(f"timesformer.commands.{words[1]}")
        parser = module.make_parser()
        for action in parser._actions:
            _add_completer(action)
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=list(commands))
    argcomplete.autocomplete(parser)


def _add_completer(action: Any) -> None:
    if action.dest in ("cfg", "cfg_file"):
        action.completer = _configurations_and_files
    elif action.dest == "show":
        action.completer = _configurations
    elif action.dest == "opts":
        action.completer = _keys_and_values


def _configurations(**_: object) -> list[str]:
    from timesformer.config.shipped import shipped_names

    return shipped_names()


def _configurations_and_files(prefix: str, **more: object) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*_configurations(), *FilesCompleter(("yaml", "yml"))(prefix, **more)]


def _keys_and_values(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """Keys of the configuration, and after a key its choices."""
    from timesformer.config.options import OPTIONS

    given = getattr(parsed_args, "opts", None) or []
    if len(given) % 2 == 0:
        return OPTIONS
    option = OPTIONS.get(given[-1])
    if option and isinstance(option.default, bool):
        return ["True", "False"]
    return map(str, option.choices) if option else []
