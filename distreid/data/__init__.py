"""A folder, an archive, a CSV to a Manifest: one table of layouts, a file for each kind."""
