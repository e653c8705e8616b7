"""From what a worker left behind to the truth about its run."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..port.errors import sendable
from ..port.records import now
from .folder import last_progress, read_regular
from .models import RunError, RunRecord, RunState

RESULT_LIMIT = 64 * 1024 * 1024
"""Bytes. A larger result is refused: big things belong into files/."""

Stopped = Literal["", "cancelled", "time limit", "memory limit", "supervisor ended", "supervisor lost"]
"""Why the worker was ended from outside; empty when it ended by itself."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended."""

    exit_code: int | None = None
    signal: str | None = None
    stopped: Stopped = ""
    last_lines: str = ""
    oom_kills: int = 0


@dataclass(frozen=True)
class Outcome:
    """The final part of a record."""

    state: RunState
    error: RunError | None
    result_digest: str | None


def read_result(folder: Path, key: str) -> tuple[dict[str, Any] | None, str | None, str]:
    """The worker's result, its SHA-256, and what is wrong with it (empty: nothing).

    Only what the worker wrote counts: ``result.mac`` must authenticate the bytes with the run's key.
    """
    try:
        data = read_regular(folder / "result.json", RESULT_LIMIT + 1)
    except FileNotFoundError:
        return None, None, ""
    except OSError as error:
        return None, None, f"result.json cannot be read: {error}"
    try:
        mac = read_regular(folder / "result.mac", 100)
    except OSError as error:
        return None, None, f"result.mac cannot be read: {error}"
    if len(data) > RESULT_LIMIT:
        return None, None, f"result.json is larger than {RESULT_LIMIT} bytes"
    if not hmac.compare_digest(mac, hmac.new(key.encode(), data, hashlib.sha256).hexdigest().encode()):
        return None, None, "result.json is not what the worker wrote"
    try:
        result = json.loads(data)
        # What is not UTF-8 (a file name) comes as halves of surrogate pairs, which neither a record nor a client takes.
        result = _sendable(result) if b"\\u" in data else result
    except (ValueError, RecursionError) as error:
        return None, None, f"result.json: {error}"
    if not isinstance(result, dict) or not isinstance(
        result.get("value" if result.get("ok") is True else "error"), dict
    ):
        return None, None, "result.json has neither a value nor an error"
    return result, hashlib.sha256(data).hexdigest(), ""


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, dict):
        return {sendable(key): _sendable(item) for key, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list) else value


def judge(record: RunRecord, folder: Path, ending: Ending) -> Outcome:
    """The state in which the run ended.

    A result that the worker finished writing counts, even if the process died afterwards: a crash while the
    interpreter shuts down must not cost hours of work. Without one, the reason is named.
    """
    result, digest, wrong = read_result(folder, record.key)
    if result is not None and result.get("ok") is True:
        return Outcome("done", None, digest)
    if result is not None:
        return Outcome("failed", RunError.model_validate(_texts(result["error"])), digest)
    if ending.stopped == "cancelled":
        return Outcome(
            "cancelled", RunError(what="The run was cancelled.", fix="Start it again if it is needed."), None
        )
    if wrong:
        return Outcome("crashed", RunError(what="The worker's result cannot be used.", seen=wrong, fix=_AGAIN), None)
    if ending.stopped in ("time limit", "memory limit"):
        return Outcome("failed", _limit(record, ending), None)
    if ending.stopped:
        return Outcome("crashed", _supervisor(ending), None)
    return _without_result(ending)


_AGAIN = "Start the run again, and leave its folder alone."


def _texts(error: dict[str, Any]) -> dict[str, str]:
    texts = {name: str(error.get(name) or "")[:4000] for name in ("what", "seen", "fix")}
    return {**texts, "what": texts["what"] or "The job failed and did not say why."}


def _limit(record: RunRecord, ending: Ending) -> RunError:
    if ending.stopped == "memory limit":
        limit = (record.memory_limit or 0) / 2**30
        return RunError(
            what=f"The run was stopped at its memory limit of {limit:.2f} GiB.",
            seen=ending.last_lines,
            fix="Use a smaller case or one side at a time, or allow more memory.",
        )
    return RunError(
        what=f"The run was stopped at its time limit of {record.time_limit_s:g} s.",
        seen=ending.last_lines,
        fix="Look in the log for where it hangs; allow more time only if it was making progress.",
    )


def _supervisor(ending: Ending) -> RunError:
    if ending.stopped == "supervisor lost":
        what = "The supervisor of this run died (killed, or the machine restarted), so the worker was ended too."
    else:
        what = "The supervisor of this run was ended from outside by a signal, so the worker was ended too."
    return RunError(what=what, seen=ending.last_lines, fix="Start the run again.")


def _without_result(ending: Ending) -> Outcome:
    seen = ending.last_lines
    if ending.signal == "SIGKILL":
        # The counter covers everything in our control group, so it is evidence, not proof.
        memory = (
            f"The kernel's out-of-memory killer struck {ending.oom_kills} time(s) during the run."
            if ending.oom_kills
            else "Nothing here sent it: a person did, or the system (often: out of memory)."
        )
        what = f"The worker was killed by SIGKILL before it had a result. {memory}"
        fix = "Free memory or use a smaller case, then start the run again."
        return Outcome("crashed", RunError(what=what, seen=seen, fix=fix), None)
    if ending.signal:
        known = {"SIGSEGV": " (segmentation fault)", "SIGABRT": " (abort)", "SIGBUS": " (bus error)"}
        what = f"The worker died of {ending.signal}{known.get(ending.signal, '')} before it had a result."
        fix = "The log ends with the Python stack of the crash; look there for the call into native code."
        return Outcome("crashed", RunError(what=what, seen=seen, fix=fix), None)
    if ending.exit_code == 0:
        what = "The worker ended with exit code 0 but without a result."
        return Outcome("crashed", RunError(what=what, seen=seen, fix="Look for os._exit() in the code it ran."), None)
    what = f"The worker ended with exit code {ending.exit_code} and without a result."
    return Outcome("failed", RunError(what=what, seen=seen, fix="The end of the log says why."), None)


def exit_facts(returncode: int) -> tuple[int | None, str | None]:
    """``Popen.returncode`` as (exit code, signal name), one of them none."""
    if returncode >= 0:
        return returncode, None
    try:
        return None, signal.Signals(-returncode).name
    except ValueError:
        return None, f"signal {-returncode}"


def settled(record: RunRecord, folder: Path, ending: Ending, outcome: Outcome) -> RunRecord:
    """The record with its final part."""
    return record.model_copy(
        update={
            "state": outcome.state,
            "finished_at": now(),
            "exit_code": ending.exit_code,
            "signal": ending.signal,
            "progress": last_progress(folder),
            "error": outcome.error,
            "result_digest": outcome.result_digest,
        }
    )
