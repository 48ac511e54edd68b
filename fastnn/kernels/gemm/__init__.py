"""Matrix products: the register tile, and products of any size from it."""
