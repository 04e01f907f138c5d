"""Notebooks executed into reports. May import paths, files."""

from workbench.reporting.records import record

__all__ = ["record"]
