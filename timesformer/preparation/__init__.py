"""From a dataset's archives to clips that train well: download -> unpack -> convert -> check."""
