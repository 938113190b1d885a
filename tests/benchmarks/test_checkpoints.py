"""The table of checkpoints has a row for each optimizer, and leaves no file behind."""

from pathlib import Path

from tools.benchmark.checkpoints import checkpoint_table, default_run


def test_the_table_has_what_each_checkpoint_takes(tmp_path: Path) -> None:
    cfg = default_run(tmp_path)
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = 64, 1, 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in checkpoint_table(cfg, rounds=1)][4:]
    assert [row[0] for row in rows] == ["SGD with momentum", "AdamW", "AdamW, average of the weights"]
    sgd, adamw, averaged = (float(row[1]) for row in rows)
    assert adamw / sgd > 1.3  # three of the model's size instead of two, ...
    assert averaged / sgd > 1.7  # ... and four
    assert all(float(figure.removesuffix(" s")) >= 0 for row in rows for figure in row[2:])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
