"""A workbench for retrieval with learned similarities."""

import os

__version__ = "0.1.0"

# torch's threads (GNU OpenMP, which reads this as torch loads it) wait for each other at the end of every operation. By
# default they spin for milliseconds, and where other programs want the cores too each wait lasts until the scheduler
# comes round: a small model then trains ten times slower and more. A short spin costs little on a quiet machine. What the
# command line starts (JupyterLab, the kernels of a report) inherits it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
