"""Files that hold samples: how each format is read, and how a file's format is detected."""
