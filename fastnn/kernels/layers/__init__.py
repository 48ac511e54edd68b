"""Layers: dense, with and without zeros skipped, and dense over sparse features."""
