"""Figures from tables, and widgets that only call them. May import files, anatomy, bench, evaluation and theory."""
