"""What a configuration does, before training: learning rates and augmented clips."""
