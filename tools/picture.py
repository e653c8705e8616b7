"""Pictures: named in results, and shown by the one result that is not structured data."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel


@dataclass(frozen=True)
class Picture:
    """An image for the model to look at.

    Attributes:
        data: The encoded file.
        mime: Its MIME type, for example ``image/png``.
    """

    data: bytes
    mime: str


class PictureFile(BaseModel):
    """A picture of a run, by resource and by file."""

    uri: str
    path: str
