"""Find again what a lost store of root knew, in the hands of clusters."""
