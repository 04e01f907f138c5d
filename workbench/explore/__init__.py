"""Figures from tables, and widgets that only call them. May import anatomy, bench, evaluation and theory."""
