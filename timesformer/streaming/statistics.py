"""How well a stream was followed: latency, frame rates and frames left out."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

_LATENCIES = 10_000  # answers whose latency is kept


@dataclass
class StreamStatistics:
    """Numbers of a stream from its first frame on.

    Attributes:
        seconds: since the first frame was received.
        received: number of frames.
        dropped: frames that were in no window when the newest frames won.
        answers: number of predicted windows.
        connections: number of connections.
        latencies: of the last 10,000 answers: seconds from receiving the newest frame of the window to the answer.
    """

    seconds: float = 0.0
    received: int = 0
    dropped: int = 0
    answers: int = 0
    connections: int = 1
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES), repr=False)

    @property
    def fps(self) -> float:
        """Received frames per second; 0 before the second frame."""
        return (self.received - 1) / self.seconds if self.seconds > 0 else 0.0

    @property
    def mean_latency(self) -> float:
        """Mean of `latencies` in seconds; NaN before the first answer."""
        return float(np.mean(self.latencies)) if self.latencies else float("nan")

    @property
    def latency_95(self) -> float:
        """95th percentile of `latencies` in seconds; NaN before the first answer."""
        return float(np.percentile(self.latencies, 95)) if self.latencies else float("nan")

    def to_dict(self) -> dict[str, float | int | None]:
        """Return all numbers, rounded, for a JSON file; None for NaN."""
        latency = (self.mean_latency, self.latency_95) if self.latencies else (None, None)
        return {
            "seconds": round(self.seconds, 3),
            "received": self.received,
            "dropped": self.dropped,
            "answers": self.answers,
            "connections": self.connections,
            "fps": round(self.fps, 2),
            "mean_latency": latency[0] and round(latency[0], 4),
            "latency_95": latency[1] and round(latency[1], 4),
        }

    def __str__(self) -> str:
        frames = f"{self.received} frames received ({self.fps:.1f} per second), {self.dropped} dropped"
        latency = f", latency {self.mean_latency:.3f} s (95 % below {self.latency_95:.3f} s)" if self.latencies else ""
        connections = f", {self.connections} connections" if self.connections > 1 else ""
        return f"{self.seconds:.0f} s: {frames}, {self.answers} answers{latency}{connections}"
