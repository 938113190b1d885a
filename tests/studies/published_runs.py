"""Reads ../shared/published/hmdb_simp_runs.md, which describes the published runs in sentences and a table."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Options = dict[str, Any]

_IMAGENET = {"DATA.MEAN": [0.485, 0.456, 0.406], "DATA.STD": [0.229, 0.224, 0.225]}
_PHRASES: dict[str, Callable[..., Options]] = {
    r"\bSGD\b": lambda: {"SOLVER.OPTIMIZING_METHOD": "sgd"},
    r"\bAdam (\S+?)(?:,|$)": lambda rate: {"SOLVER.OPTIMIZING_METHOD": "adam", "SOLVER.BASE_LR": float(rate)},
    r"momentum ([\d.]+)": lambda value: {"SOLVER.MOMENTUM": float(value)},
    r"no Nesterov": lambda: {"SOLVER.NESTEROV": False},
    r"weight decay ([\d.]+)": lambda value: {"SOLVER.WEIGHT_DECAY": float(value)},
    r"learning rate ([\d.]+)": lambda value: {"SOLVER.BASE_LR": float(value)},
    r"linear(?:ly)? to 0": lambda: {"SOLVER.LR_POLICY": "linear", "SOLVER.COSINE_END_LR": 0.0},
    r"constant learning rate": lambda: {
        "SOLVER.LR_POLICY": "steps_with_relative_lrs",
        "SOLVER.STEPS": [0],
        "SOLVER.LRS": [1],
    },
    r"no warm-up": lambda: {"SOLVER.WARMUP_EPOCHS": 0.0},
    r"batch (\d+)(?: x (\d+) accumulated)?": lambda size, times: {
        "TRAIN.BATCH_SIZE": int(size),
        "GLOBAL_BATCH_SIZE": int(size) * int(times or 1),
    },
    r"(?:\d+ to )?(\d+) epochs": lambda number: {"SOLVER.MAX_EPOCH": int(number)},
    r"fp(16|32)": lambda bits: {"TRAIN.MIXED_PRECISION": "fp16" if bits == "16" else "off"},
    r"evaluation and checkpoint each epoch": lambda: {"TRAIN.EVAL_PERIOD": 1},
    r"patience (\d+)": lambda number: {"TRAIN.EARLY_STOP_PATIENCE": int(number)},
    r"resized whole to (\d+) x \1": lambda side: {
        "DATA.SPATIAL_MODE": "resize",
        "DATA.TRAIN_CROP_SIZE": int(side),
        "DATA.TEST_CROP_SIZE": int(side),
    },
    r"ImageNet mean and std": lambda: _IMAGENET,
    r"values 0\.\.1 without mean and std": lambda: {"DATA.MEAN": [0.0] * 3, "DATA.STD": [1.0] * 3},
    r"No augmentation but the stretching": lambda: {"DATA.RANDOM_FLIP": False, "DATA.PRE_SAMPLING.ENABLED": True},
    r"rounds of ((?:\w+, )+\w+), each": lambda names: {"DATA.PRE_SAMPLING.METHODS": names.split(", ")},
    r"frames\[::(\d+)\]\[:(\d+)\]": lambda rate, frames: {
        "DATA.SAMPLER": "uniform",
        "DATA.SAMPLER_START": "first",
        "DATA.SAMPLING_RATE": int(rate),
        "DATA.NUM_FRAMES": int(frames),
    },
    r"of the stretched list": lambda: {"DATA.PRE_SAMPLING.ORDER": "before_sampling"},
    r"after sampling": lambda: {"DATA.PRE_SAMPLING.ORDER": "after_sampling"},
    r"random sampling": lambda: {"DATA.SAMPLER": "random"},
    r"unordered": lambda: {"DATA.SAMPLER_ORDERED": False},
    r"drawn when the list of clips is made": lambda: {"DATA.DRAW_ONCE": True},
    r"equidistant over all frames": lambda: {"DATA.SAMPLER": "equidistant"},
    r"(\d+) frames: the centre \d+ frames at stride (\d+)": lambda frames, rate: {
        "DATA.SAMPLER": "dense",
        "DATA.SAMPLER_START": "center",
        "DATA.NUM_FRAMES": int(frames),
        "DATA.SAMPLING_RATE": int(rate),
    },
    r"where there are as many, else equidistant over all": lambda: {
        "DATA.SAMPLER_WINDOW": "fit",
        "DATA.PRE_SAMPLING.ENABLED": False,
    },
    r"google/vivit-b-16x2": lambda: {"MODEL.MODEL_NAME": "ViViT"},
}
"""Regular expressions of phrases, and the options that their groups mean."""


def read_options(text: str) -> Options:
    """The options that the phrases in a text name. Text in parentheses is a comment."""
    text, found = re.sub(r"\([^()]*\)", "", text.replace("*", "")), {}
    for pattern, options_of in _PHRASES.items():
        for match in re.finditer(pattern, text):
            found |= options_of(*match.groups())
    return found


class PublishedRuns:
    """The content of the file."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8").replace("**", "")

    def section(self, title: str) -> str:
        """The text below a title that starts with these words, without tables."""
        _, _, rest = self.text.partition(f"## {title}")
        body = rest.partition("\n## ")[0].partition("\n")[2]
        return "\n".join(line for line in body.splitlines() if not line.startswith("|"))

    def runs(self) -> list[dict[str, Any]]:
        """The rows of the table of runs, with the keys of `runs` in golden/hmdb_simp_runs.json."""
        lines = [line for line in self.text.splitlines() if re.match(r"\| (?!run \(file\)|---)", line)]
        return [self._run(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]

    def _run(self, file: str, settings: str, validation: str, result: str) -> dict[str, Any]:
        result, _, comment = result.partition(" (")
        published = ["-" if text == "-" else float(text) for text in (result.split(" / ") if "/" in result else "--")]
        run = {"file": file, "published": [None if value == "-" else value for value in published]}
        run["validation"] = "" if validation == "-" else validation
        run["differs"] = read_options(settings + ("; after sampling" if "(after sampling)" in file else ""))
        weights = re.search(r"(\w+) weights", settings)
        run["weights"] = weights[1] if weights else "ViViT-K400" if "google/vivit" in settings else "K400"
        if printed := re.search(r"the report prints ([\d.]+)", comment):
            run["report"] = f"{published[0]} / {printed[1]}"
        elif row := re.search(r"the report's row says (.+), and the same result", settings):
            run["report"] = f"{row[1]}: {result}"
        return run

    def other_groups(self) -> list[dict[str, list[float | None]]]:
        """Of each list `A / B: 1 / 2; MODEL 3 / -.`: the values of A, B, `MODEL, A` and `MODEL, B` in each group."""
        number = r"(?:\d+\.\d+|-)"
        group = rf"(?:\w+ )?{number}(?: / {number})+(?: \([^)]*\))?"
        tables = []
        for labels, groups in re.findall(
            rf"([^.:;\n]+ / [^.:;\n]+): ({group}(?:; {group})*)\.", self.section("Others")
        ):
            columns = [
                re.fullmatch(r"(?:(\w+) )?([-\d. /]+?)(?: \(.*\))?", text).groups() for text in groups.split("; ")
            ]
            rows: dict[str, list[float | None]] = {}
            for column, (model, values) in enumerate(columns):
                for label, value in zip(labels.strip().split(" / "), values.split(" / "), strict=True):
                    row = rows.setdefault(f"{model}, {label}" if model else label, [None] * len(columns))
                    row[column] = None if value == "-" else float(value)
            tables.append({name: row for name, row in rows.items() if any(row)})
        return tables
