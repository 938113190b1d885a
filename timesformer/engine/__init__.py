"""The engine: trains, validates, tests, and writes what came of it."""
