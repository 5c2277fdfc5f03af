"""The lowest tier: makes this machine run what its cluster assigned, with or without the cluster."""
