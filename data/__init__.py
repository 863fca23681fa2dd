"""Data sets as whole splits in memory, whose batches are pure functions of (seed, step)."""
