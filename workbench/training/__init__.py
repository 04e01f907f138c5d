"""Losses, the loop, checkpoints, presets. May import everything below it."""
