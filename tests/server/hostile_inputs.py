"""Hostile arguments for every tool: those that follow from its schema, and those that only its meaning suggests.

Each case is one call in which one argument is hostile and the others are as an honest caller would send them, so that
the hostile one reaches the code that is meant to stop it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvideo_port.server.arguments import signature_of
from fastvideo_port.tools import ALL
from fastvideo_port.tools.base import ToolSpec

CANARY = "canary-7f3a-never-shown"
"""What stands in every file outside the roots. No answer may hold it."""

TOKEN = "hf_FakeFakeFakeFakeFakeFake0123"
"""What stands in ``HF_TOKEN``. Nothing that leaves the server may hold it."""

PASSWORD = "s3cr3t-Passw0rd"
"""The password of the hostile URLs."""


@dataclass(frozen=True)
class Place:
    """Where the cases happen.

    Attributes:
        port_id, other_port_id: Two ports; the first has a plan, weights and an adapter.
        run_id: A finished run of the first.
        outside: A folder that no tool may read or write.
        repository, worktree: Of the first port.
    """

    port_id: str
    other_port_id: str
    run_id: str
    outside: Path
    repository: Path
    worktree: Path


@dataclass(frozen=True)
class Case:
    """One call."""

    tool: str
    label: str
    arguments: dict[str, Any]


def honest(tool: str, place: Place) -> dict[str, Any]:
    """Arguments that the tool takes; runs are not waited for."""
    port, component = {"port_id": place.port_id}, {"component": "transformer"}
    plan = [{"name": "transformer", "kind": "dit", "official": "tiny_official.Net", "port": "fastvideo.tiny.TinyNet"}]
    known: dict[str, dict[str, Any]] = {
        "create_worktree": {"model_name": "Tiny"},
        "fetch_official_repo": {**port, "url": str(place.repository)},
        "fetch_weights": {**port, "source": "org/name"},
        "convert_weights": {**port, "script": "convert.py"},
        "write_plan": {**port, "scope": "The network.", "components": plan},
        "update_step": {**port, "step_id": "isolate-workspace", "state": "in_progress"},
        "scaffold_component": {**port, **component},
        "check_mapping": {**port, **component},
        "request_approval": {**port, "step_id": "mapping-transformer", "summary": "Please look."},
        "run_component_parity": {**port, **component},
        "locate_divergence": {**port, **component},
        "check_scheduler": {**port, "official": "diffusers.FlowScheduler", "port": "fastvideo.tiny.TinyNet"},
        "run_pipeline_parity": port,
        "run_ssim": {**port, "reference": "video.mp4", "candidate": "video.mp4"},
        "run_example": {**port, "script": "examples/run.py"},
        "check_integration": port,
        "gate_status": port,
        "final_report": port,
        "run_status": {"run_id": place.run_id},
        "cancel_run": {"run_id": place.run_id},
        "show_picture": {"run_id": place.run_id, "name": "a.png"},
        "list_ports": {},
    }
    arguments = known[tool]
    waits = {"wait_s": 0} if "wait_s" in signature_of(_spec(tool)).parameters else {}
    return {**arguments, **waits}


def _spec(tool: str) -> ToolSpec:
    return next(spec for spec in ALL if spec.name == tool)


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


WRONG_TYPES: dict[str, dict[str, Any]] = {
    "string": {"number": 7, "list": ["a"], "object": {"a": 1}, "true": True},
    "number": {
        "text": "many",
        "NaN": float("nan"),
        "infinite": float("inf"),
        "negative": -1,
        "huge": 10**400,
        "{}": {},
    },
    "integer": {"text": "many", "NaN": float("nan"), "fraction": 1.5, "negative": -1, "huge": 10**400, "list": [1]},
    "boolean": {"text": "perhaps", "number": 7, "list": []},
    "array": {
        "text": "a",
        "number": 3,
        "null inside": [None],
        "deep": _deep(200),
        "deep in text": "[" * 5000 + "]" * 5000,
        "list of lists": [[["a"]]],
        "object": {"a": ["b"]},
        "5,000 items": ["x"] * 5000,
        "NUL": ["a\0b"],
        "an option": ["--upload-pack=touch pwned"],
    },
}

TEXTS: dict[str, str] = {
    "empty": "",
    "blank": " \t ",
    "NUL": "a\0b",
    "surrogate": "a\ud800",
    "200,000 characters": "x" * 200_000,
    "5,000 characters": "x" * 5000,
    "option": "--upload-pack=touch pwned",
    "shell": "$(touch pwned); `touch pwned` | touch pwned & touch pwned #",
    "template": "{{ cycler.__init__.__globals__ }}{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "format": "%s%n%x {0.__class__.__init__.__globals__} ${IFS}",
    "escape": "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u200b\u2066",
    "newline": "a\n\n# Gate: open\n- [x] done\n```",
    "sql": "x' OR '1'='1'; DROP TABLE ports; --",
    "parent": "../../outside/secret.txt",
}
"""For every text argument."""


def _paths(place: Place) -> dict[str, str]:
    secret = place.outside / "secret.txt"
    return {
        "absolute": str(secret),
        "home": "~/secret.txt",
        "user": "~root/x",
        "encoded": "%2e%2e%2foutside%2fsecret.txt",
        "backslashes": "..\\..\\outside\\secret.txt",
        "link": "link-out.py",
        "linked folder": "folder-out/secret.txt",
        "link loop": "loop",
        "git": ".git",
        "hook": ".git/hooks/post-checkout",
        "GIT": ".GIT/config",
        "fifo": "pipe",
        "zero": "/dev/zero",
        "environ": "/proc/self/environ",
        "fd": "/proc/self/fd/0",
        "root": "/proc/self/root/etc/passwd",
        "folder": "fastvideo",
        "dot": ".",
        "long component": "y" * 300 + ".py",
    }


_PATHS = {
    ("create_worktree", "fastvideo_repo"),
    ("create_worktree", "python"),
    ("create_worktree", "official_python"),
    ("convert_weights", "script"),
    ("convert_weights", "rules"),
    ("check_mapping", "adapter"),
    ("run_component_parity", "adapter"),
    ("locate_divergence", "adapter"),
    ("run_pipeline_parity", "adapter"),
    ("run_ssim", "candidate"),
    ("run_example", "script"),
    ("show_picture", "name"),
}
"""Arguments that name a path."""


def _meaning(place: Place) -> Iterator[tuple[str, str, str, Any]]:
    """Tool, argument, label, value."""
    for tool, argument in sorted(_PATHS):
        for label, text in _paths(place).items():
            yield tool, argument, label, text
    urls = {
        "helper": "ext::sh -c touch% pwned",
        "file helper": "file::/etc",
        "file": f"file://{place.outside}",
        "password": f"https://user:{PASSWORD}@127.0.0.1:9/x.git",
        "token": f"https://{TOKEN}@127.0.0.1:9/x.git",
        "proxy": "ssh://-oProxyCommand=touch pwned/x",
        "proxy user": "ssh://-oProxyCommand=x@host/x",
        "scp option": "-oProxyCommand=touch:pwned",
        "bad port": "https://127.0.0.1:99999999/x",
        "fd": "fd::7",
        "git protocol": "git://127.0.0.1/x",
        "brackets": "https://[::1/x",
        "no repository": str(place.outside),
        "zero": "/dev/zero",
        "bad characters": "https://h\u0000st/x",
    }
    for tool, argument in (("create_worktree", "clone_url"), ("fetch_official_repo", "url")):
        for label, text in urls.items():
            yield tool, argument, label, text
    for revision in (
        "-x",
        "-h",
        "--upload-pack=x",
        "@{-1}",
        "a\nb",
        "a..b",
        "HEAD^{/x}",
        ":/x",
        "a b",
        "~1",
        "refs/../x",
    ):
        yield "fetch_official_repo", "revision", f"revision {revision!r}", revision
        yield "fetch_weights", "revision", f"revision {revision!r}", revision
    for source in ("../../x", "org/..", "a/b/c", "ORG//x", "org/name.git", "org/na--me", "/dev/zero",
                   "/proc/self/environ", str(place.outside), "~/x", "pipe",
                   "file:///etc", "https://huggingface.co/org/name"):  # fmt: skip
        yield "fetch_weights", "source", f"source {source[-20:]!r}", source
    for patterns in ([""], [], ["\x1b[2J"], ["x" * 5000], ["../*"], ["*" * 200], [7]):
        yield "fetch_weights", "allow_patterns", f"patterns {str(patterns)[:16]}", patterns
    for prefix in ("../", "-", "a..b/", "refs/heads/", "x.lock/", "a\nb", "@{", "/", " ", "a//b", "\u202e/"):
        yield "create_worktree", "branch_prefix", f"prefix {prefix!r}", prefix
    for name in ("..", ".git", "///", "\u0000", "\u202e\u200b", "-rf", "con", "!!!"):
        yield "create_worktree", "model_name", f"model {name!r}", name
    yield "create_worktree", "environment_patches", "unknown patch", ["os-system"]
    ids = {"other": place.other_port_id[:-1], "slashes": "../ports/x", "upper": place.port_id.upper(), "%": "port-%"}
    for spec in ALL:
        parameters = signature_of(spec).parameters
        if "port_id" in parameters:
            for label, text in ids.items():
                yield spec.name, "port_id", f"port {label}", text
        if "run_id" in parameters:
            for text in ("../../outside", "a/b", "run-0", "run-%", "." * 40, f"{place.run_id}/..", place.run_id[:-1]):
                yield spec.name, "run_id", f"run {text[:12]!r}", text
        if "device" in parameters:
            for text in ("cuda:99999999999999999999", "cuda:-1", "mps", "cpu;x", "meta", "cuda:0,1"):
                yield spec.name, "device", f"device {text[:12]!r}", text
        if "wait_s" in parameters:
            for number in (45.01, -0.1, 1e308, float("nan")):
                yield spec.name, "wait_s", f"wait {number}", number
    for dtypes in (["float64"], ["int8"], [], ["float32"] * 500, ["__import__('os')"]):
        yield "run_component_parity", "dtypes", f"dtypes {str(dtypes)[:20]}", dtypes
    for seeds in ([], [-1], [2**70], [True], [1.5], list(range(999))):
        yield "run_component_parity", "seeds", f"seeds {str(seeds)[:12]}", seeds
    for cases in ([], ["no such case"] * 3, ["../x"], ["x" * 5000], [""]):
        yield "run_component_parity", "cases", f"cases {str(cases)[:16]}", cases
        yield "run_pipeline_parity", "cases", f"cases {str(cases)[:16]}", cases
    for steps in (0, -5, 10**9, 2**70):
        yield "check_scheduler", "num_steps", f"steps {steps}"[:20], steps
    for path in (
        "os.system",
        "__import__('os')",
        "fastvideo..x",
        "a",
        "fastvideo.tiny.TinyNet;x",
        "../x.y",
        "fastvideo.\u0430",
    ):
        yield "check_scheduler", "official", f"official {path!r}", path
        yield "check_scheduler", "port", f"class {path!r}", path
    for reference in ("../../outside/secret.txt", "link-out.py", "pipe", "/dev/zero", "/proc/self/environ", "loop"):
        yield "run_ssim", "reference", f"reference {reference[-12:]!r}", reference
        yield "run_example", "reference", f"reference {reference[-12:]!r}", reference
    for number in (-1.0, 0.0, 1.0001, float("nan"), float("-inf"), 1e-400, "0.5; x"):
        yield "run_ssim", "threshold", f"threshold {number}", number
        if number != 0:
            yield "run_ssim", "min_threshold", f"floor {number}", number
    part = honest("write_plan", place)["components"][0]
    for key, value in {
        "name": ["Trans Former", "", "a" * 41, "../x", "class\n", "{{x}}", "\u0430"],
        "kind": ["DIT", "", None, 3],
        "official": ["Net", "os.system('x')", "a..b", "import.x", "fastvideo.tiny.TinyNet", "x" * 5000 + ".y"],
        "port": ["diffusers.Wan", "fastvideo", "fastvideo.class.X", ""],
        "adapter": ["../x.py", "/etc/x.py", ".git/hooks/x.py", "x.sh", "a\0.py", "~/x.py", "%2e%2e/x.py", "-x\n.py"],
        "surplus": [1],
    }.items():
        for item in value:
            yield "write_plan", "components", f"{key}={item!r}"[:40], [{**part, key: item}]
    yield "write_plan", "components", "none", []
    yield "write_plan", "components", "25", [{**part, "name": f"c{n}", "adapter": f"a{n}.py"} for n in range(25)]
    yield "write_plan", "components", "twice", [part, part]
    yield "write_plan", "risks", "41 risks", ["x"] * 41
    yield "update_step", "run_ids", "guessed run", ["run-0123456789abcdef"]
    yield "update_step", "run_ids", "traversal", ["../../outside/secret.txt"]
    yield "update_step", "run_ids", "1,000 runs", [place.run_id] * 1000
    for state in ("DONE", "approved", "", "open"):
        yield "update_step", "state", f"state {state!r}", state
    for step in ("open-gate", "isolate-workspace\n", "../x"):
        yield "request_approval", "step_id", f"step {step!r}", step
    for args in (["\0"], ["x" * 200_000], ["{source.__class__}"], ["{0}"], ["{unclosed"], ["--"] * 5000):
        yield "convert_weights", "args", f"args {str(args)[:16]}", args
        yield "run_example", "args", f"args {str(args)[:16]}", args


# Calls that make a worktree or a run of their own each: told apart because they take tens of times longer.
_MAKES_WORKTREE = {"shell", "template", "format", "newline", "sql", "escape", "option", "parent"}


def _kind_of(schema: dict[str, Any]) -> str:
    return str(schema.get("type", "string" if "enum" in schema else "array"))


def cases(tool: str, place: Place) -> list[Case]:
    """Every hostile call of ``tool``."""
    base = honest(tool, place)
    properties: dict[str, dict[str, Any]] = signature_of(_spec(tool)).input_schema()["properties"]
    found = [
        Case(tool, "unknown argument", {**base, "approved": True}),
        Case(tool, "options as arguments", {**base, "--force": "x", "__class__": {}}),
        Case(tool, "template as a name", {**base, "{{ x }}\x1b[2J" + "y" * 5000: 1}),
    ]
    for name in signature_of(_spec(tool)).input_schema().get("required", []):
        found.append(Case(tool, f"without {name}", {key: value for key, value in base.items() if key != name}))
        found.append(Case(tool, f"{name} null", {**base, name: None}))
    for name, schema in properties.items():
        kind = _kind_of(schema)
        for label, value in WRONG_TYPES[kind].items():
            found.append(Case(tool, f"{name} {label}", {**base, name: value}))
        for label, text in TEXTS.items() if kind == "string" else ():
            # One worktree with the hostile name shows as much as eight.
            if tool == "create_worktree" and name in ("model_name", "goal") and label in _MAKES_WORKTREE - {"template"}:
                continue
            found.append(Case(tool, f"{name} {label}", {**base, name: text}))
    for other, name, label, value in _meaning(place):
        if other == tool:
            more = {"fastvideo_repo": None} if name == "clone_url" else {}
            found.append(Case(tool, f"{name} {label}", {**base, **more, name: value}))
    return found
