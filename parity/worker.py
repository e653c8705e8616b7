"""Entry of the worker process: runs one job and writes its result, whatever happens inside."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import collecting, fork_server, out_of_memory, watched
from .errors import ParityError
from .job import Job
from .strict_json import encode, write_atomically
from .weights_guard import check_weights

JOBS = {
    "ssim": "ssim_job:ssim",
    "example": "example_job:example",
    "component_parity": "component_job:component_parity",
    "locate": "locate_job:locate",
    "convert_weights": "convert_job:convert_weights",
    "check_mapping": "mapping_job:check_mapping",
    "check_scheduler": "scheduler_job:check_scheduler",
    "scheduler_side": "scheduler_side:scheduler_side",
    "tokenizer_parity": "tokenizer_job:tokenizer_parity",
    "tokenizer_side": "tokenizer_side:tokenizer_side",
    "signatures": "signature_job:signatures",
    "signature_side": "signature_job:signature_side",
    "side": "component_side:run_side",
    "pipeline_parity": "pipeline_job:pipeline_parity",
    "pipeline_side": "pipeline_side:run_pipeline_side",
    "lab_official": "lab:lab_official",
    "lab_port": "lab:lab_port",
    "header_side": "header_job:header_side",
    "mapping_side": "mapping_job:mapping_side",
    "official_entries": "mapping_job:official_entries",
}
"""Job name -> ``module:function`` below this package; the function is ``f(spec: dict, job: Job) -> dict``."""

KEY_BYTES = 64
"""Length of the run's key on standard input, in hexadecimal digits."""

_FRAMES = 6


def main(job: str, run_dir: str, jobs: Mapping[str, str] = JOBS, package: str = __package__) -> None:
    """Run ``job`` with the spec in ``run_dir`` and write ``result.json``.

    The result is ``{"ok": true, "value": {...}}`` or ``{"ok": false, "error": {"what", "seen", "fix", "traceback"}}``,
    written once, whole, and on disk before the process ends. ``result.mac`` authenticates it with the key that the
    supervisor handed over on standard input, so that a file put there by anyone else is known as such.
    """
    collecting.seldom()
    folder = Path(run_dir)
    worker = os.getpid()
    server = fork_server.start(job, folder) if jobs is JOBS else None
    key = _read_key()
    handle: Job | None = None
    try:
        spec = json.loads((folder / "spec.json").read_bytes())
        handle = Job(folder)
        if job != "example":  # which watches the processes that it starts
            watched.watch(spec, folder)
        check_weights(spec)
        value = _load(job, jobs, package)(spec, handle)
        _end_fork(worker)
        check_weights(spec)
        handle.flush()
        if not isinstance(value, dict):
            raise TypeError(f"the job returned a {type(value).__name__}, not a dict")
        result = encode({"ok": True, "value": value})
    # BaseException: a job that calls sys.exit() must not end as a run without a result.
    except BaseException as error:
        _end_fork(worker, error)
        if handle is not None:
            handle.flush()
        result = encode({"ok": False, "error": describe(error)})
    if key:
        mac = hmac.new(key, result, hashlib.sha256).hexdigest()
        write_atomically(folder / "result.mac", mac.encode(), durable=True)
    write_atomically(folder / "result.json", result, durable=True)
    if server is not None:
        server.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _end_fork(worker: int, error: BaseException | None = None) -> None:
    """End this process if it is a fork that came back from the job: only the worker itself has a result."""
    if os.getpid() == worker:
        return
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
    clean = error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
    os._exit(0 if clean else 1)


def describe(error: BaseException) -> dict[str, str]:
    """The ``error`` part of a result: ``what``, ``seen``, ``fix`` and the ``traceback``."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if isinstance(error, ParityError):
        return {"what": error.what, "seen": error.seen, "fix": error.fix, "traceback": text[-8000:]}
    fix = "Correct the code at the place named; the whole traceback stands in the result and the log."
    if type(error).__name__ == "OutOfMemoryError":
        what, said = "The job ran out of GPU memory.", str(error)[:1500]
        fix = out_of_memory.ADVICE
        said = "\n".join([said, *out_of_memory.report()])
    elif isinstance(error, SystemExit):
        what, said = "The job called sys.exit() before it had a result.", f"sys.exit({error.code!r})"
    else:
        what = f"The job raised {type(error).__name__}."
        said = "".join(traceback.format_exception_only(type(error), error)).strip()[-1500:]
    return {
        "what": what,
        "seen": "\n".join([said, *_foreign_frames(error)]),
        "fix": fix,
        "traceback": text[-8000:],
    }


def _foreign_frames(error: BaseException) -> list[str]:
    """The innermost calls outside this package: the port's, the adapter's, the libraries'."""
    engine = str(Path(__file__).resolve().parent) + os.sep
    frames = [
        f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}: {frame.line or ""}'
        for frame in traceback.extract_tb(error.__traceback__)
        if not str(Path(frame.filename).resolve()).startswith(engine) and not frame.filename.startswith("<frozen")
    ]
    return frames[-_FRAMES:]


def _load(job: str, jobs: Mapping[str, str], package: str) -> Callable[[dict[str, Any], Job], Any]:
    if job not in jobs:
        raise ParityError(
            "The engine has no such job.", seen=f"job={job!r}", fix=f"Choose one of: {', '.join(sorted(jobs))}."
        )
    module, _, function = jobs[job].partition(":")
    loaded: Callable[[dict[str, Any], Job], Any] = getattr(importlib.import_module(f"{package}.{module}"), function)
    return loaded


def _read_key() -> bytes:
    """The run's key from standard input; empty when a person runs the worker by hand."""
    if os.isatty(0):
        return b""
    parts = b""
    with contextlib.suppress(OSError):
        while len(parts) < KEY_BYTES and (part := os.read(0, KEY_BYTES - len(parts))):
            parts += part
    return parts if len(parts) == KEY_BYTES else b""
