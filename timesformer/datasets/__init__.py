"""From files on disk to batches: records -> reader -> timeline -> sampling -> transforms -> clips -> loader."""
