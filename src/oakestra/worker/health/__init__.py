"""Whether instances do their work: probing them, and what the answers come to."""
