"""Figures from tables, and widgets that only call them. May import evaluation."""
