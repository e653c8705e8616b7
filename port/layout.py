"""How a folder of weights is laid out, decided from names, configs and tensor names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from .weights_report import Kind, Layout

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors", re.ASCII)

_FAMILIES: dict[str, tuple[str, ...]] = {
    "dit": ("model.diffusion_model.", "diffusion_model.", "transformer.", "dit."),
    "vae": ("first_stage_model.", "vae.", "video_vae."),
    "encoder": ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder.", "text_model."),
    "audio": ("audio_vae.", "vocoder.", "audio_decoder."),
}
_BY_NAME: tuple[tuple[str, Kind], ...] = (
    (r"tokenizer|processor|feature_extractor", "tokenizer"),
    (r"scheduler", "scheduler"),
    (r"text_encoder|image_encoder|vision_.*encoder|text_model", "encoder"),
    (r"vae", "vae"),
    (r"transformer|unet|dit\b", "dit"),
)
_BY_CLASS: tuple[tuple[str, Kind], ...] = (
    (r"Tokenizer|Processor|FeatureExtractor", "tokenizer"),
    (r"Scheduler", "scheduler"),
    (r"Autoencoder|VAE", "vae"),
    (r"Transformer[123]DModel|TransformerVideo|DiT|UNet", "dit"),
    (r"EncoderModel|TextModel|VisionModel|CLIP|T5|ForCausalLM|ForConditionalGeneration", "encoder"),
)


def kind_of(name: str, class_name: str | None) -> Kind:
    """The kind of a component by its folder's name, else by its class; ``extra`` if neither tells."""
    for patterns, text in ((_BY_NAME, name.lower()), (_BY_CLASS, class_name or "")):
        for pattern, kind in patterns:
            if re.search(pattern, text):
                return kind
    return "extra"


def families(keys: Iterable[str]) -> set[str]:
    """The component families whose prefixes the tensor names bear."""
    found: set[str] = set()
    for key in keys:
        found.update(family for family, prefixes in _FAMILIES.items() if key.startswith(prefixes))
    return found


def folder_style(files: dict[str, set[str]], *, class_style: str | None, indexed: bool) -> Layout:
    """The layout of one folder.

    Args:
        files: Safetensors file names of the folder, each with its tensor names.
        class_style: ``diffusers`` or ``transformers`` if a config names a class.
        indexed: Whether an index file is there.
    """
    if class_style == "diffusers":
        return "diffusers"
    if class_style == "transformers":
        return "transformers"
    if indexed or (len(files) > 1 and all(SHARD.fullmatch(name) for name in files)):
        return "sharded"
    if len(files) == 1:
        return "monolithic" if len(families(next(iter(files.values())))) > 1 else "single-file"
    return "mixed"


def overall(styles: dict[str, Layout], pipeline: set[str] | None) -> Layout:
    """The layout of the whole.

    Args:
        styles: Layout of each folder that holds safetensors, by relative path.
        pipeline: Component folders that ``model_index.json`` names; none if there is no such file.
    """
    if not styles:
        return "unknown"
    if pipeline is not None:
        return (
            "diffusers" if all(PurePosixPath(folder).parts[:1] and folder in pipeline for folder in styles) else "mixed"
        )
    return next(iter(styles.values())) if len(styles) == 1 else "mixed"
