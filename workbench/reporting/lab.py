"""JupyterLab as `workbench lab` starts it: `python -m workbench.reporting.lab`, with JupyterLab's own options."""

import sys

from workbench.lazy_imports import import_jsonschema


def main() -> None:
    """Run the server until it is stopped."""
    import_jsonschema()
    from jupyterlab.labapp import main as serve

    sys.exit(serve())


if __name__ == "__main__":
    main()
