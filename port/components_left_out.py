"""Components of the official model that a plan does not have."""

from __future__ import annotations

from collections import Counter

from .records import ComponentRecord, PortRecord


def left_out(port: PortRecord, kinds: tuple[str, ...]) -> list[str]:
    """Components that ``fetch_weights`` found and for which no component of their kind is planned.

    Names in a plan are free, so kinds are counted: two text encoders of different classes need two planned encoders,
    two transformers of one class need one. Kinds that ``fetch_weights`` could not tell, tokenizers and extras do not
    count: whether they are ported is the plan's to say.

    Args:
        port: The port.
        kinds: The kinds to look at.
    """
    planned = Counter(component.kind for component in port.components)
    classes: dict[str, dict[str, str]] = {}
    for folder, (kind, name) in (port.weights.components if port.weights else {}).items():
        if kind in kinds and kind in ("dit", "vae", "encoder", "scheduler"):
            classes.setdefault(kind, {}).setdefault(name or folder, folder)
    return [
        f"{folder} ({name})"
        for kind, found in classes.items()
        if len(found) > planned[kind]  # type: ignore[index]
        for name, folder in list(found.items())[planned[kind] :]  # type: ignore[index]
    ]


def only(port: PortRecord, component: ComponentRecord) -> PortRecord:
    """The port as it would be if the official model had this component alone."""
    weights = port.weights.model_copy(update={"components": {}}) if port.weights else None
    return port.model_copy(update={"components": [component], "weights": weights})
