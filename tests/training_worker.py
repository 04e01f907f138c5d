"""Trains in processes that the tests start: some to be killed, some to work together.

`worker.py kills JOBS.json`: for each job, a run in a process of its own that is killed at the job's step, then another
that resumes it. `worker.py together JOBS.json`: this process is one of several and trains every job with them.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch._dynamo  # an optimizer imports it, which takes seconds: once, before the forks
from worlds import cyclic, retriever_config, training_config

from workbench.retriever import Retriever
from workbench.training import loop

FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def set_trap(moment: str, count: int, folder: str) -> None:
    """Arrange for this process to be killed at a moment: the `count`th of its kind."""
    left = count

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            kill()

    if moment == "step":
        original = loop._set_rate

        def set_rate(*arguments: Any) -> None:
            passed()
            original(*arguments)

        loop._set_rate = set_rate
    elif moment == "file":  # anything done to a file of the run after its first epoch
        armed = False

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal armed
            what = str(arguments[0]) if event in FILE_EVENTS else ""
            if folder in what and "tensorboard" not in what:  # whose own thread writes when it likes
                if armed:
                    passed()
                armed = armed or (event == "os.rename" and str(arguments[1]).endswith("epoch-0001"))

        sys.addaudithook(hook)
    elif moment == "weights":  # half of the tensors' file is written
        save: Callable[..., None] = safetensors.torch.save_file

        def save_file(tensors: Any, path: Path, *rest: Any, **named: Any) -> None:
            save(tensors, path, *rest, **named)
            if left == 1:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            passed()

        safetensors.torch.save_file = save_file
    elif moment == "milliseconds":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, count / 1000)
    else:
        raise ValueError(moment)


def train(kind: str, folder: str, epochs: int) -> None:
    loop.train(
        cyclic(), retriever_config(kind), training_config(epochs), Path(folder), device="cpu", progress=False
    )


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked process that does `work`, negative for a signal. This process never computes itself."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(jobs: list[dict[str, Any]]) -> list[dict[str, int]]:
    answers = []
    for job in jobs:

        def doomed(job: dict[str, Any] = job) -> None:
            set_trap(job["moment"], job["count"], job["folder"])
            train(job["kind"], job["folder"], 4)

        def whole(job: dict[str, Any] = job) -> None:
            train(job["kind"], job["folder"], 4)

        first = in_child(doomed) if job["moment"] else 0
        answers.append({"first": first, "second": in_child(whole)})
    return answers


def together(jobs: list[dict[str, Any]]) -> None:
    measure, trained = loop.measure, []

    def measured(retriever: Retriever, *rest: Any) -> dict[str, float]:
        trained.append(retriever)
        return measure(retriever, *rest)

    loop.measure = measured
    for job in jobs:
        for epochs in job["epochs"]:
            train(job["kind"], job["folder"], epochs)
        weights = {name: tensor.clone() for name, tensor in trained[-1].state_dict().items()}
        safetensors.torch.save_file(weights, f"{job['folder']}-rank{os.environ['RANK']}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    mode, path = sys.argv[1], Path(sys.argv[2])
    listed = json.loads(path.read_text())
    if mode == "kills":
        print(json.dumps(kills(listed)))
    else:
        together(listed)
