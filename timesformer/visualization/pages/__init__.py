"""The content of the HTML pages, and their rendering."""
