"""Live video: cameras, network streams and pipes, classified while they are received."""
