"""Records that describe a network and its training, and random numbers."""
