"""What happens to the connection of a stream."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal


@dataclass(frozen=True)
class StreamEvent:
    """A change of the connection.

    Attributes:
        kind: `stalled`: a pipe or camera sends nothing, but is open; `disconnected`: the connection broke, and will be
            made again; `failed`: an attempt at this failed, and another one follows; `reconnected`.
        reason: in words, with the name of the source; without a password.
        time: when it happened.
    """

    kind: Literal["stalled", "disconnected", "failed", "reconnected"]
    reason: str
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __str__(self) -> str:
        return self.reason
