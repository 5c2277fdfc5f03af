"""What every tier is given: the loop, a clock, randomness, logs."""
