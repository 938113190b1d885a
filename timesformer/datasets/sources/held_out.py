"""Which training clips of a class are held out for validation, where a dataset's own lists have no validation part."""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256


def hold_out(sources: Mapping[str, str], share: float) -> set[str]:
    """Choose about `share` of the clips of one class, whole sources together.

    Clips cut from one film or recorded with one person show the same faces and rooms. If such clips stood on both
    sides, the validation accuracy would tell how well these are known again. Sources are taken in an order that looks
    random and depends on their names alone, each if it brings the number of clips nearer to `share`. So the choice is
    the same on every machine and with every RNG_SEED, and clips of other classes do not change it.

    Args:
        sources: what each clip of the class was cut from, by the name of the clip. Where all have one source, single
            clips are chosen.
        share: above 0 and below 1.

    Returns:
        Names of the clips to hold out: one at least, and never all; none of a class of one clip.
    """
    if len(set(sources.values())) < 2:
        sources = {name: name for name in sources}
    sizes = Counter(sources.values())
    order = sorted(sizes, key=lambda source: sha256(source.encode("utf-8", "surrogateescape")).digest())
    wanted, number, held = share * len(sources), 0, set()
    for source in order[:-1]:  # the last one always stays in training
        if abs(number + sizes[source] - wanted) < abs(number - wanted):
            held.add(source)
            number += sizes[source]
    if not held and len(order) > 1:  # all are far larger than the share
        held = {min(order, key=sizes.__getitem__)}
    return {name for name, source in sources.items() if source in held}
