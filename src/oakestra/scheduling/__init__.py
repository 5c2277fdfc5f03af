"""Decisions that root and cluster share: who can run what, where best, who is alive, when to try again. Pure."""
