"""What drives Intel's Lava: the only files that import it."""
