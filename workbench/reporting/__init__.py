"""Notebooks executed into reports. May import paths."""

from workbench.reporting.records import record

__all__ = ["record"]
