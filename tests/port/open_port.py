"""A port whose gate is open, seven of seven, through the real ledger, approvals, weights and integration check.

No model is run: the entries are what finished runs enter, with the summaries that the tools make of them, and rest on
files that are there. Each test changes one thing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fastvideo_port.port.approvals import Approvals
from fastvideo_port.port.freshness import plan_digest
from fastvideo_port.port.ledger import Entry, Ledger
from fastvideo_port.port.records import ComponentRecord, PortRecord, WeightsRecord, new_id, now
from fastvideo_port.port.weights import read_weights
from fastvideo_port.port.weights_link import place, weights_root
from fastvideo_port.tests.parity import small_fastvideo
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.check_integration import check_integration
from fastvideo_port.tools.gate_status import GateStatusResult, gate_status
from safetensors.numpy import save_file

DIT, REGISTRY = "fastvideo/models/dits/tiny.py", "fastvideo/registry.py"
ADAPTER = "tests/local_tests/tiny/parity_transformer.py"
PIPELINE_ADAPTER = "tests/local_tests/tiny/parity_pipeline.py"
EXAMPLE, VIDEO = "examples/inference/basic/basic_tiny.py", "outputs/tiny.mp4"
STEP = "mapping-transformer"
INDEX = {"_class_name": "P", "transformer": ["diffusers", "TinyNet"], "scheduler": ["diffusers", "FlowScheduler"]}


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class OpenPort:
    """The port, its folders, and what is entered and asked of them."""

    def __init__(self, folder: Path, without: str = "") -> None:
        """Build it in ``folder``; ``without`` names an item of the gate for which nothing is entered."""
        self.home, self.worktree = folder / "state", folder / "a worktree"
        self.home.mkdir(parents=True)
        base = small_fastvideo.make(self.worktree)
        self.official, self.reference = folder / "official", folder / "official video.mp4"
        self._write_files(folder / "weights")
        self.ctx = ToolContext(home=self.home, cwd=self.worktree)
        record = PortRecord(
            port_id=new_id("port"),
            model_name="Tiny",
            slug="tiny",
            worktree=str(self.worktree),
            branch="b",
            base_commit=base,
            mode="worktree",
            repository="r",
            python=sys.executable,
            official_repo=str(self.official),
            weights=self.weights(folder / "weights"),
            components=[
                ComponentRecord(
                    name="transformer",
                    kind="dit",
                    official="official_tiny.Net",
                    port="fastvideo.models.dits.tiny.TinyTransformer3DModel",
                    adapter=ADAPTER,
                ),
                ComponentRecord(
                    name="scheduler",
                    kind="scheduler",
                    official="official_tiny.Flow",
                    port="fastvideo.models.schedulers.flow.FlowScheduler",
                    adapter="tests/local_tests/tiny/parity_scheduler.py",
                ),
            ],
            created_at=now(),
        )
        self.port_id = record.port_id
        self.ctx.ports.add(record)
        if without != "keys":
            self.mapping()
        if without not in ("keys", "mapping-reviewed"):
            self.approve()
        if without != "component-parity":
            self.parity()
        self.scheduler()
        if without != "pipeline-parity":
            self.pipeline()
        if without != "example":
            self.example()
        if without != "ssim":
            self.ssim()
        if without != "documentation":
            check_integration(self.ctx, self.port_id)

    def _write_files(self, weights: Path) -> None:
        (weights / "transformer").mkdir(parents=True)
        (weights / "model_index.json").write_text(json.dumps(INDEX))
        (weights / "transformer/config.json").write_text('{"_class_name": "TinyNet", "eps": 1e-06}')
        save_file({"a": np.arange(64, dtype=np.float32)}, weights / "transformer/model.safetensors")
        self.official.mkdir()
        (self.official / "official_tiny.py").write_text("class Net: ...\n")
        self.reference.write_bytes(b"the official video")
        for path in (ADAPTER, PIPELINE_ADAPTER):
            (self.worktree / path).write_text("def load_port(ctx): ...\n")
        schedulers = self.worktree / "fastvideo/models/schedulers"
        schedulers.mkdir()
        (schedulers / "flow.py").write_text("class FlowScheduler: ...\n\n\nEntryClass = FlowScheduler\n")
        (self.worktree / "outputs").mkdir()
        (self.worktree / VIDEO).write_bytes(b"the port's video")

    @property
    def port(self) -> PortRecord:
        """The record as it is now."""
        return self.ctx.ports.get(self.port_id)

    def change(self, **fields: Any) -> None:
        """Change the port's record, as a tool that was called would."""
        self.ctx.ports.update(self.port_id, lambda old: old.model_copy(update=fields))

    def weights(self, source: Path, fetch: int = 1) -> WeightsRecord:
        """What fetch_weights records of a local folder, and its link in the worktree."""
        report = read_weights(source, self.home)
        return WeightsRecord(
            path=str(place(weights_root(self.worktree), "tiny", source)),
            source=str(source),
            digest=report.digest,
            identities=report.identities,
            components={item.name: (item.kind, item.class_name or "") for item in report.components},
            needs_conversion=False,
            fetch=fetch,
        )

    def status(self) -> GateStatusResult:
        """What gate_status says."""
        return gate_status(self.ctx, self.port_id)

    def entries(self) -> list[Entry]:
        """The port's ledger."""
        return Ledger(self.home).entries(self.port_id)

    # --- what finished runs enter ---------------------------------------------------------------------------------

    def enter(self, kind: str, component: str | None, summary: dict[str, Any], **changed: Any) -> Entry:
        """One entry that rests on the port's files as they are now."""
        port = self.port
        depends = {
            f"worktree:{DIT}": sha256(self.worktree / DIT),
            f"worktree:{REGISTRY}": sha256(self.worktree / REGISTRY),
            "weights": port.weights.digest if port.weights else "",
            "environment:port.torch": "2.11.0",
            **changed.pop("depends", {}),
        }
        values: dict[str, Any] = {
            "port_id": self.port_id,
            "kind": kind,
            "component": component,
            "verdict": "pass",
            "run_id": new_id("run"),
            "summary": {"why": "", **summary},
            "depends_on": depends,
        }
        return Ledger(self.home).append(**{**values, **changed})

    def _adapter(self, path: str, component: str = "") -> dict[str, str]:
        plan = {"plan": plan_digest(self.port, component)} if component else {"plan": ""}
        official = {"official:official_tiny.py": sha256(self.official / "official_tiny.py")}
        return {f"adapter:{path}": sha256(self.worktree / path), **official, **plan}

    def mapping(self, rules: tuple[str, ...] = ("'^a$' -> 'b'",), **changed: Any) -> Entry:
        """check_mapping."""
        summary = {
            "tensors": [1, 1],
            "parameters": [64, 64],
            **dict.fromkeys(("missing", "unexpected", "shape_mismatches", "collisions", "unused_on_purpose"), 0),
            "unused_names": [],
            "unused_patterns": {},
            "rule_lines": list(rules),
            "rules_digest": hashlib.sha256(json.dumps(rules).encode()).hexdigest(),
            "rules": len(rules),
            "how": {"rule": 1},
            "arrivals": hashlib.sha256(repr(rules).encode()).hexdigest(),
        }
        changed.setdefault("depends", self._adapter(ADAPTER, "transformer"))
        return self.enter("check_mapping", "transformer", summary, **changed)

    def approve(self, approve: bool = True, channel: Any = "page") -> None:
        """A person decides on the mapping that is proven now."""
        approvals = Approvals(self.home)
        view = approvals.view(approvals.request(self.port, STEP, "Please look."))
        assert view.content is not None
        approvals.decide(
            view.request.approval_id, approve=approve, digest=view.content.digest, channel=channel, asserted_by="test"
        )

    def parity(self, **changed: Any) -> Entry:
        """run_component_parity of the transformer."""
        summary = {
            "cases": 4,
            "logic_ratio": 1.02,
            "precision_ratio": 1.1,
            "worst_module_ratio": 1.3,
            "strict": True,
            "culprit": None,
            "environment_patches": [],
            "reference": "d" * 64,
            "reference_kind": "float64",
            "self_test": True,
            "flags": {},
            "inputs": ["odd", "small"],
            "dtype_remarks": [],
            "remarks": [],
        }
        changed.setdefault("depends", self._adapter(ADAPTER, "transformer"))
        return self.enter("component_parity", changed.pop("component", "transformer"), summary, **changed)

    def scheduler(self, **changed: Any) -> Entry:
        """check_scheduler."""
        summary = {
            "cases": 4,
            "logic_ratio": 1.0,
            "cause": "",
            "first_differing_index": None,
            "environment_patches": [],
        }
        changed.setdefault("depends", {"plan": plan_digest(self.port, "scheduler")})
        return self.enter("check_scheduler", "scheduler", summary, **changed)

    def pipeline(self, **changed: Any) -> Entry:
        """run_pipeline_parity."""
        summary = {
            "guilty": [],
            "steps": 4,
            "final_error": 1e-6,
            "logic_ratio": 1.1,
            "decoded_logic_ratio": 1.0,
            "precision_ratio": 1.1,
            "environment_patches": [],
            "reference": "e" * 64,
        }
        changed.setdefault("depends", self._adapter(PIPELINE_ADAPTER))
        return self.enter("pipeline_parity", None, summary, **changed)

    def facts(self, path: Path) -> dict[str, Any]:
        """What is kept of a video."""
        return {"path": str(path), "frames": 9, "width": 64, "height": 48, "fps": 16.0, "sha256": sha256(path)}

    def example(self, script: str = EXAMPLE, video: str | None = VIDEO, **changed: Any) -> Entry:
        """run_example."""
        summary = {
            "script": script,
            "args": [],
            "exit_code": 0,
            "seconds": 3.0,
            "imported": 2,
            "video": {**self.facts(self.worktree / video), "duration_s": 0.6, "codec": "h264"} if video else None,
            "ssim": None,
            "findings": [],
            "environment": {"python": "3.11", "gpu": "none"},
        }
        path = self.worktree / script
        changed.setdefault("depends", {f"worktree:{script}": sha256(path)} if path.is_file() else {})
        return self.enter("example", None, summary, **changed)

    def ssim(self, reference: Path | None = None, candidate: str = VIDEO, **changed: Any) -> Entry:
        """run_ssim."""
        theirs, ours = reference or self.reference, self.worktree / candidate
        summary = {
            "metric": "ms_ssim",
            "threshold": 0.93,
            "min_threshold": 0.83,
            "mean": 0.99,
            "min": 0.97,
            "max": 1.0,
            "worst_frame": 3,
            "frames_compared": 9,
            "device": "cpu",
            "reference": self.facts(theirs),
            "candidate": self.facts(ours),
            "findings": [],
            **changed.pop("summary", {}),
        }
        changed.setdefault("depends", {f"path:{path}": sha256(path) for path in (theirs, ours)})
        return self.enter("ssim", None, summary, **changed)
