"""Records: the videos of a split in columns."""

import tracemalloc

from timesformer.datasets.records import Records, VideoRecord


def test_columns_become_records() -> None:
    records = Records(["a", "b \udcff", "日本"], [0, 1, 0], folder="/data")
    assert records[1] == VideoRecord("/data/b \udcff", 1, "b \udcff")
    assert records[-1] == VideoRecord("/data/日本", 0, "日本")
    assert list(Records(["a"], [1], ["/x/a.mp4"])) == [VideoRecord("/x/a.mp4", 1, "a")]


def test_records_have_no_object_for_each_video() -> None:
    tracemalloc.start()
    records = Records((f"class/{number:040}" for number in range(50_000)), [0] * 50_000)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 50_000 * (46 + 8 + 8) * 1.1  # name, its end, label; a str object would be 95 bytes, and not shared
    assert records[49_999].name == f"class/{49_999:040}"
