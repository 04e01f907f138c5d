"""Notebooks executed into reports. May import paths."""
