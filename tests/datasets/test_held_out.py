"""The validation part of a class: its size, whole sources, and that it depends on names alone."""

import pytest

from timesformer.datasets.sources.held_out import hold_out


def clips(*sizes: int, prefix: str = "film") -> dict[str, str]:
    return {f"{prefix}{n}_{i}.avi": f"{prefix}{n}" for n, size in enumerate(sizes) for i in range(size)}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5, 0.9])
def test_about_the_share_of_many_sources_is_held_out(share: float) -> None:
    for prefix in ("a", "b", "c"):
        held = hold_out(clips(*[1, 2, 3] * 20, prefix=prefix), share)
        assert abs(len(held) - share * 120) <= 2


def test_clips_of_a_source_stay_together() -> None:
    sources = clips(3, 4, 2, 5, 1, 3, 2)
    held = hold_out(sources, 0.3)
    assert {sources[name] for name in held}.isdisjoint(sources[name] for name in sources if name not in held)


@pytest.mark.parametrize(
    ("sizes", "share", "number"),
    [((50, 40), 0.1, 40), ((30, 60, 1), 0.05, 1), ((8,), 0.25, 2), ((2,), 0.1, 1), ((1, 1), 0.9, 1), ((1,), 0.5, 0)],
    ids=["two large", "a small one among large", "one source", "one source of two clips", "two clips", "one clip"],
)
def test_one_clip_at_least_is_held_out_and_never_all(sizes: tuple[int, ...], share: float, number: int) -> None:
    assert len(hold_out(clips(*sizes), share)) == number


def test_the_choice_depends_on_names_and_not_on_their_order() -> None:
    sources = clips(*[1] * 30)
    held = hold_out(sources, 0.2)
    assert hold_out(dict(reversed(sources.items())), 0.2) == held
    # Known names, so that a run of today and one of next year validate on the same clips.
    assert held == {f"film{n}_0.avi" for n in (1, 3, 7, 9, 10, 13)}
    assert {name.replace("other", "film") for name in hold_out(clips(*[1] * 30, prefix="other"), 0.2)} != held
