"""What is known of a folder of weights, in records."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Layout = Literal["diffusers", "transformers", "monolithic", "sharded", "mixed", "single-file", "unknown"]
"""How a folder of weights is laid out.

- ``diffusers``: ``model_index.json`` with its component folders, or one component whose config has ``_class_name``
- ``transformers``: one folder whose ``config.json`` has ``architectures`` or ``model_type``
- ``monolithic``: one file that holds several components under prefixes (``model.diffusion_model.``, ``vae.``)
- ``sharded``: numbered shards or an index file, and no config that names a class
- ``single-file``: one safetensors file of one component, and no config that names a class
- ``mixed``: several of these beside each other, or several unrelated files
- ``unknown``: no safetensors file at all
"""

Kind = Literal["dit", "vae", "encoder", "tokenizer", "scheduler", "extra"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFacts(_Record):
    """A safetensors file."""

    path: str = Field(description="Relative to the weights' folder.")
    bytes: int
    tensors: int
    sha256: str


class UnsafeFile(_Record):
    """A file in a format that can run code when loaded; never opened."""

    path: str
    bytes: int
    present: bool = Field(description="False: left on the hub.")


class DuplicateKey(_Record):
    """A tensor name that several files of one component hold."""

    component: str
    key: str
    files: tuple[str, ...]
    listed_in: str | None = Field(description="The file that the index names, if it names one.")


class ComponentFacts(_Record):
    """A folder of the weights that is one component."""

    name: str
    folder: str = Field(description="Relative; '.' is the top.")
    kind: Kind
    class_name: str | None = Field(description="From model_index.json or the config.")
    files: int = Field(description="Number of safetensors files.")
    tensors: int
    parameters: int = Field(description="Number of elements.")
    dtypes: dict[str, int] = Field(description="Elements per dtype.")
    bytes: int


class WeightsReport(_Record):
    """Everything read from a folder of weights; ``digest`` is over names, sizes and hashes of the safetensors files."""

    layout: Layout
    needs_conversion: bool
    why: str = Field(description="Why conversion is or is not needed.")
    components: tuple[ComponentFacts, ...]
    files: tuple[FileFacts, ...]
    missing: tuple[str, ...] = Field(description="Files that an index or a shard's number names and that are absent.")
    index_faults: tuple[str, ...] = Field(description="Where an index and the headers disagree.")
    duplicates: tuple[DuplicateKey, ...]
    unsafe_files: tuple[UnsafeFile, ...]
    custom_code: tuple[str, ...] = Field(description="auto_map entries and .py files; never run.")
    notes: tuple[str, ...]
    digest: str
    identities: dict[str, str] = Field(default_factory=dict, description="See weights_identity.")

    @property
    def tensors(self) -> int:
        """Tensors in all components."""
        return sum(component.tensors for component in self.components)

    @property
    def parameters(self) -> int:
        """Elements in all components."""
        return sum(component.parameters for component in self.components)

    @property
    def bytes(self) -> int:
        """Bytes of all safetensors files."""
        return sum(file.bytes for file in self.files)
