"""The middle tier: turns root's assignment into instances on workers, and keeps them there."""
