"""Reading frames from files, one module for each kind of storage; `open.open_video` opens any of them."""
