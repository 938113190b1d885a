"""Pictures of what a run did: charts, the report of a run, attention maps. Reads results, never trains."""
