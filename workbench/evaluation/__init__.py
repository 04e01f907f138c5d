"""Metrics and protocols, raw tables first. May import contracts, runtime, search."""
