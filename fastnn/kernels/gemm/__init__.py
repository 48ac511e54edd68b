"""Matrix products: the register tile, and products of any size made of it."""
