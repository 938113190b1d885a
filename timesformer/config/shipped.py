"""The configurations and studies that come with this package, by name."""

from difflib import get_close_matches
from pathlib import Path, PurePath

from timesformer.config.sources import select_names
from timesformer.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".yaml", ".yml")
COSTS = "costs.csv"  # in the folder; written by benchmarks/config_costs.py


def shipped_folder() -> Path:
    """The folder `configs`: in the installed package, or in the source checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def shipped_names() -> list[str]:
    """Names of all configurations, such as HMDB/TimeSformer_divST_8x32_224; studies are not among them."""
    folder = shipped_folder()
    paths = (path.relative_to(folder) for path in folder.glob("*/*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in paths if path.parent.name != "studies")


def study_names() -> list[str]:
    """Names of the shipped studies, such as hmdb_simp."""
    return sorted(path.stem for path in (shipped_folder() / "studies").glob("*.yaml"))


def list_configs(pattern: str = "*") -> list[str]:
    """Returns the shipped configurations that `load_config` and `train` find by name; `pattern` as in `list_models`."""
    return select_names(shipped_names(), pattern)


def find_config(name: str | Path) -> Path:
    """The file of a configuration: a path, else the name of a shipped one, with or without `configs/` and `.yaml`.

    Raises UserError, which names the nearest ones.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    short = PurePath(name).as_posix().removeprefix("configs/")
    short = short.removesuffix(PurePath(name).suffix) if PurePath(name).suffix in SUFFIXES else short
    names = shipped_names()
    if short in names:
        return shipped_folder() / f"{short}.yaml"
    near = [found for found in names if found.endswith(f"/{short}")] or get_close_matches(short, names, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else "`timesformer configs` lists them"
    raise UserError(f"{name} not found: expected a file, or the name of a shipped configuration; {hint}")
