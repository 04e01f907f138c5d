"""One notebook, executed by papermill in a process of its own: `python -m workbench.reporting.execute JOB.json PID`."""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench import files
from workbench.lazy_imports import import_jsonschema
from workbench.reporting.records import RECORDS_FILE

HEADLESS = "WORKBENCH_HEADLESS"
"""Set to 1 for the kernel of a report: dashboards then show their static twins."""

_KERNEL = "workbench-report"


@dataclass(frozen=True)
class Job:
    """What to execute: paths are absolute; `timeout` in seconds caps each cell; `root` is the workbench's folder."""

    source: str
    output: str
    records: str
    outcome: str
    folder: str
    root: str
    parameters: dict[str, Any]
    timeout: float
    threads: int | None

    def save(self, path: Path) -> None:
        """Write the job for the process that will execute it."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Outcome:
    """How an execution ended: `error` is one line, empty if it succeeded."""

    error: str


def execute(job: Job) -> Outcome:
    """Execute the notebook and write the executed copy, partial if it fails.

    The kernel is this interpreter, whatever kernels the user has installed; it sees no start-up files of the user.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    error, shown = "", True
    # Sockets in a folder of its own: by default they are in the working folder, where two kernels would collide. Its path is
    # short for any home folder: a socket's path may have about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        _install_kernel(job, Path(folder))
        os.environ["JUPYTER_PATH"] = os.environ["JUPYTER_RUNTIME_DIR"] = folder
        try:
            papermill.execute_notebook(
                job.source,
                job.output,
                job.parameters,
                kernel_name=_KERNEL,
                cwd=job.folder,
                execution_timeout=job.timeout,
                progress_bar=False,
                store_widget_state=False,
                coalesce_streams=True,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
            )
        except PapermillExecutionError as failure:
            error = _one_line(f"{failure.ename}: {failure.evalue}")
        except CellTimeoutError:
            error, shown = f"a cell took longer than {job.timeout:g} s (--timeout)", False
        except DeadKernelError:
            error, shown = "the kernel died (out of memory?)", False
    _tidy(job, "" if shown else error)
    return Outcome(error)


def _one_line(message: str, longest: int = 300) -> str:
    line = " ".join(message.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _install_kernel(job: Job, folder: Path) -> None:
    environment = {
        HEADLESS: "1",
        RECORDS_FILE: job.records,
        "WORKBENCH_ROOT": job.root,
        "PLOTLY_RENDERER": "plotly_mimetype",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if job.threads is not None:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    specification = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Report",
        "language": "python",
        "env": environment,
    }
    place = folder / "kernels" / _KERNEL
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")


def _tidy(job: Job, unshown: str) -> None:
    """Take papermill's markers and this machine's paths out of the copy, and show an error that no cell shows yet."""
    import nbformat

    output = Path(job.output)
    document = nbformat.read(output, as_version=4)
    document.cells = [
        cell for cell in document.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    if unshown:
        started = [cell for cell in document.cells if cell.metadata.get("papermill", {}).get("start_time")]
        running = next((cell for cell in reversed(started) if cell.cell_type == "code"), None)
        if running is not None:
            running.outputs.append(
                nbformat.v4.new_output(
                    "error", ename="Stopped", evalue=unshown, traceback=[f"Stopped: {unshown}"]
                )
            )
    for cell in document.cells:
        cell.metadata.pop("papermill", None)
    document.metadata.pop("papermill", None)
    document.metadata.kernelspec = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    with files.atomic_write(output) as temporary:
        nbformat.write(document, temporary)


def _die_with(parent: int) -> None:
    """End this process, its kernel and its folder once the process that started it is gone (killed, say)."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os._exit(1)


def main() -> None:
    """Execute the job that the first argument names, for the process whose number is the second, and write its outcome."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    threading.Thread(target=_die_with, args=(int(sys.argv[2]),), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    import_jsonschema()
    try:
        outcome = execute(job)
    except Exception as error:  # a kernel that does not start, a full disk: the report continues and shows it
        outcome = Outcome(_one_line(f"{type(error).__name__}: {error}"))
    Path(job.outcome).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


if __name__ == "__main__":
    main()
