"""Importing users' modules, which register samplers, datasets, models, transforms, charts and options."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from timesformer.errors import UserError


def import_modules(names: Iterable[str]) -> None:
    """Imports modules by dotted name (installed, or in the current folder) or by path of a `.py` file.

    Raises UserError if a module does not exist, or an error occurs in it.
    """
    for name in names:
        path = Path(name).expanduser()
        is_file = path.suffix == ".py"
        if is_file and not path.is_file():
            raise UserError(f"IMPORTS: there is no file {path.absolute()}")
        folder = str(path.parent.resolve()) if is_file else os.getcwd()
        if folder not in sys.path:
            sys.path.append(folder)
        module = path.stem if is_file else name
        try:
            found = importlib.import_module(module)
        except Exception as error:
            hint = "" if is_file else "; give an installed module, one of this folder, or the path of a .py file"
            raise UserError(f"IMPORTS: {name} cannot be imported: {type(error).__name__}: {error}{hint}") from error
        if is_file and Path(getattr(found, "__file__", None) or "").resolve() != path.resolve():
            raise UserError(f"IMPORTS: {path} has the name of another module, {found.__name__}: rename the file")
