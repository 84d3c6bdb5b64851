"""Which rows go into which set and split, and who ranks pairs of them."""
