"""Layers: dense, dense with zeros skipped, sparse."""
