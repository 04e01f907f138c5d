"""Searchers measured side by side: raw times and answers first, every table derived from them.

May import everything but cli, explore and theory.
"""
