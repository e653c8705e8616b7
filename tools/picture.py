"""A picture as a tool's result: the one result that is not structured data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An image for the model to look at.

    Attributes:
        data: The encoded file.
        mime: Its MIME type, for example ``image/png``.
    """

    data: bytes
    mime: str
