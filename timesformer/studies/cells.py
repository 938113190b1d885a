"""A cell of a study: one configuration with one seed, in a folder named after its options."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from timesformer.config.check import Problem, check
from timesformer.config.differences import Change, differences
from timesformer.config.options import OPTIONS, effects_of, flatten
from timesformer.config.retired import RENAMED
from timesformer.runtime.run_folder import results_path

WEIGHTS_KEY = "TRAIN.CHECKPOINT_FILE_PATH"


@dataclass(frozen=True, eq=False)
class Cell:
    """One run in the folder `cfg.OUTPUT_DIR`, from the best checkpoint of its parent, if any."""

    name: str
    cfg: CfgNode
    parent: "Cell | None" = None

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def config_path(self) -> Path:
        """The configuration for tools/run_net.py."""
        return self.folder / "cell.yaml"

    @property
    def key(self) -> str:
        """A name that no other cell has."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    def results(self) -> dict[str, Any] | None:
        """The content of results.json; None if the cell is not finished or the file is damaged."""
        from timesformer.visualization.run_files import read_results  # late: the help of commands needs no NumPy

        try:
            results = read_results(results_path(self.cfg))
            return results if "top1" in results else None
        except (OSError, ValueError):
            return None

    def write_config(self) -> None:
        """Writes the configuration into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(f"# {self.name}\n{self.cfg.dump()}", encoding="utf-8")

    def problems(self, check_gpus: bool) -> list[Problem]:
        """Problems of the configuration on this machine; the parent's checkpoint may be missing."""
        return [one for one in check(self.cfg, check_gpus) if not (self.parent and one.key == WEIGHTS_KEY)]

    def changed_options(self) -> list[Change]:
        """Options that differ from those of the results, such as defaults of an earlier version."""
        before = (self.results() or {}).get("config")
        changes = differences(before, self.cfg) if before else []
        return [change for change in changes if change.effects != {"runtime"} and change.key != WEIGHTS_KEY]


def make_cell(cfg: CfgNode, parent: Cell | None, seed: int, name: str, cells_folder: Path) -> Cell:
    """The cell of a configuration with this seed, under `cells_folder`/<configuration>-<digits>/seed_<N>."""
    cfg = cfg.clone()
    run_name = re.sub(r"\W+", "_", Path(cfg.OUTPUT_DIR).name)
    folder = cells_folder / f"{run_name}-{_digest(cfg, parent)}" / f"seed_{seed}"
    cfg.RNG_SEED, cfg.OUTPUT_DIR = seed, str(folder)
    return Cell(name, cfg, parent)


def is_identity(key: str) -> bool:
    """Whether another value of an option makes another cell."""
    return effects_of(key) != {"runtime"} and key != "RNG_SEED"


def _digest(cfg: CfgNode, parent: Cell | None) -> str:
    """Ten hexadecimal digits of the options that are part of a cell's identity and differ from their defaults."""
    content = flatten(yaml.safe_load(cfg.dump()))
    if parent is not None:
        content[WEIGHTS_KEY] = parent.key  # wherever its folder is
    first_names = {new: old for old, new in RENAMED.items()}  # so that results of earlier versions are found
    own = {
        first_names.get(key, key): value
        for key, value in content.items()
        if OPTIONS[key].default != value and is_identity(key)
    }
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:10]
