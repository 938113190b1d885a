"""How frames come out of files, one module per kind of storage, behind `timesformer.datasets.reader.open_video`."""
