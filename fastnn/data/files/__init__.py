"""Readers of files that hold samples, and detection of their format."""
