"""Choose between two placements of one slot when a lost cluster returns with the one that was replaced."""
