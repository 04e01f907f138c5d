"""A workbench for retrieval with learned similarities."""

__version__ = "0.1.0"
