"""`python -m workbench.cli`: the command line if no script is installed, or under `accelerate launch -m`."""

from workbench.cli import main

main()
