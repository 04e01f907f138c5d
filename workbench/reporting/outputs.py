"""The kinds of output of a notebook that pages turn into something that moves. May import nothing of ours."""

PLOT = "application/vnd.plotly.v1+json"
"""A figure."""
DASHBOARD = "application/vnd.workbench.dashboard+json"
"""Controls with a stored figure for each of their states."""
