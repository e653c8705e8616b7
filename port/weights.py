"""Read a folder of weights: layout, components, counts, hashes, faults. Headers and JSON only; nothing is loaded."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from . import layout
from .errors import PortError
from .hashes import hash_files
from .safetensors_header import Header, read_header
from .weights_folder import UNSAFE, Listing, list_files
from .weights_identity import identities_of
from .weights_report import ComponentFacts, DuplicateKey, FileFacts, Layout, UnsafeFile, WeightsReport

_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
_ROOT_NAMES = {"dit": "transformer", "vae": "vae", "encoder": "text_encoder"}
_INDEX = ".safetensors.index.json"


@dataclass
class _Faults:
    missing: list[str] = field(default_factory=list)
    index: list[str] = field(default_factory=list)
    duplicates: list[DuplicateKey] = field(default_factory=list)


def read_weights(
    root: Path,
    home: Path,
    report: Callable[[float, float | None, str], None] = lambda *progress: None,
    left_behind: tuple[UnsafeFile, ...] = (),
) -> WeightsReport:
    """Everything that names, configs, headers and hashes tell about the weights in ``root``.

    Files that can run code when loaded are named and never opened; custom code is named and never run.

    Args:
        root: Folder of weights; links are followed.
        home: State folder, for the memory of hashes.
        report: Progress in bytes hashed.
        left_behind: Unsafe files of the source that were not fetched; they are named with the others.

    Raises:
        PortError: A safetensors file or a config is unsound, or an index names a file outside its folder.
    """
    identities = identities_of(root)  # before anything is read: what changes later is then seen
    listing = list_files(root)
    names = listing.with_suffix(".safetensors")
    headers = {name: read_header(root / name) for name in names}
    by_folder: dict[str, dict[str, Header]] = defaultdict(dict)
    for name, header in headers.items():
        path = PurePosixPath(name)
        by_folder[str(path.parent)][path.name] = header
    pipeline = _pipeline(listing)
    faults = _Faults()
    styles: dict[str, Layout] = {}
    for folder, members in by_folder.items():
        indexes = _indexes(listing, folder)
        _check_indexes(folder, members, indexes, faults)
        _check_numbers(folder, members, indexes, faults)
        style = _class_of(listing, folder)[1]
        keys = {name: set(header.tensors) for name, header in members.items()}
        styles[folder] = layout.folder_style(keys, class_style=style, indexed=bool(indexes))
    for folder in {str(PurePosixPath(name).parent) for name in listing.sizes if name.endswith(_INDEX)} - set(by_folder):
        _check_indexes(folder, {}, _indexes(listing, folder), faults)  # an index whose shards are all absent
    here = [UnsafeFile(path=name, bytes=listing.sizes[name], present=True) for name in listing.with_suffix(*UNSAFE)]
    unsafe = (*here, *(file for file in left_behind if file.path not in listing.sizes))
    shape = layout.overall(styles, None if pipeline is None else set(pipeline))
    needs, why = _conversion(shape, pipeline, by_folder, unsafe, set(faults.missing))
    files = _hash(root, home, headers, report)
    return WeightsReport(
        layout=shape,
        needs_conversion=needs,
        why=why,
        components=_components(listing, by_folder, pipeline),
        files=files,
        missing=tuple(sorted(set(faults.missing))),
        index_faults=tuple(faults.index),
        duplicates=tuple(faults.duplicates),
        unsafe_files=unsafe,
        custom_code=_custom_code(listing),
        notes=tuple(listing.notes),
        digest=digest_of(files),
        identities=identities,
    )


def digest_of(files: tuple[FileFacts, ...]) -> str:
    """SHA-256 over the names, sizes and content hashes of safetensors files."""
    lines = [json.dumps([file.path, file.bytes, file.sha256]) for file in sorted(files, key=lambda file: file.path)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _pipeline(listing: Listing) -> dict[str, str] | None:
    """Component folder to class name of ``model_index.json``; none if there is no such file."""
    index = listing.json("model_index.json")
    if index is None:
        return None
    components: dict[str, str] = {}
    for name, value in index.items():
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
            components[name] = value[1]
    return components


def _class_of(listing: Listing, folder: str) -> tuple[str | None, str | None]:
    """Class name and style (``diffusers`` or ``transformers``) that the folder's configs name."""
    for config_name in _CONFIGS:
        config = listing.json(_join(folder, config_name)) or {}
        if isinstance(config.get("_class_name"), str):
            return config["_class_name"], "diffusers"
        architectures = config.get("architectures")
        if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
            return architectures[0], "transformers"
        if config_name == "config.json" and isinstance(config.get("model_type"), str):
            return None, "transformers"
        if isinstance(config.get("tokenizer_class"), str):
            return config["tokenizer_class"], None
    return None, None


def _components(
    listing: Listing, by_folder: dict[str, dict[str, Header]], pipeline: dict[str, str] | None
) -> tuple[ComponentFacts, ...]:
    folders = dict.fromkeys([*(pipeline or {}), *sorted(by_folder)])
    components = []
    for folder in folders:
        members = by_folder.get(folder, {})
        class_name = (pipeline or {}).get(folder) or _class_of(listing, folder)[0]
        kind = layout.kind_of("" if folder == "." else PurePosixPath(folder).name, class_name)
        dtypes: Counter[str] = Counter()
        for header in members.values():
            for tensor in header.tensors.values():
                dtypes[tensor.dtype] += tensor.elements
        components.append(
            ComponentFacts(
                name=_ROOT_NAMES.get(kind, "model") if folder == "." else folder,
                folder=folder,
                kind=kind,
                class_name=class_name,
                files=len(members),
                tensors=sum(len(header.tensors) for header in members.values()),
                parameters=sum(dtypes.values()),
                dtypes=dict(sorted(dtypes.items())),
                bytes=sum(header.file_bytes for header in members.values()),
            )
        )
    return tuple(components)


def _indexes(listing: Listing, folder: str) -> dict[str, dict[str, str]]:
    """The folder's index files: name to {tensor: shard}.

    Raises:
        PortError: An index is malformed or names a file outside its folder.
    """
    found: dict[str, dict[str, str]] = {}
    for name in listing.sizes:
        if str(PurePosixPath(name).parent) != folder or not name.endswith(_INDEX):
            continue
        weight_map: Any = (listing.json(name) or {}).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise PortError(
                f"{name} has no weight_map from tensor names to file names.",
                seen=str(listing.root / name),
                fix="Fetch the file again, or repair it.",
            )
        for shard in set(weight_map.values()):
            if (
                not shard
                or shard != PurePosixPath(shard).name
                or "\\" in shard
                or not shard.isprintable()
                or shard == ".."
            ):
                raise PortError(
                    f"{name} names a shard that is not a plain file name.",
                    seen=repr(shard[:120]),
                    fix="Shards lie beside their index; ask the author for a sound index.",
                )
        found[name] = weight_map
    return found


def _check_indexes(
    folder: str, members: dict[str, Header], indexes: dict[str, dict[str, str]], faults: _Faults
) -> None:
    """Note shards that are absent, tensors that are not where an index says, and names that several files hold."""
    listed: dict[str, str] = {}
    for weight_map in indexes.values():
        listed.update(weight_map)
        shards = set(weight_map.values())
        faults.missing += [_join(folder, shard) for shard in shards - set(members)]
        for key, shard in weight_map.items():
            if shard in members and key not in members[shard].tensors:
                faults.index.append(f"{key[:60]}: not in {_join(folder, shard)}, though the index says so")
        for shard in sorted(shards & set(members)):
            unlisted = [key for key in members[shard].tensors if key not in weight_map]
            faults.index += [f"{key[:60]}: in {_join(folder, shard)}, but not in the index" for key in unlisted]
    holders: dict[str, list[str]] = defaultdict(list)
    for name, header in members.items():
        for key in header.tensors:
            holders[key].append(name)
    faults.duplicates += [
        DuplicateKey(component=folder, key=key, files=tuple(names), listed_in=listed.get(key))
        for key, names in holders.items()
        if len(names) > 1
    ]


def _check_numbers(
    folder: str, members: dict[str, Header], indexes: dict[str, dict[str, str]], faults: _Faults
) -> None:
    """Note the absent numbers of ``x-00001-of-00003.safetensors``, also where no index names them."""
    series: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in members:
        if match := layout.SHARD.fullmatch(name):
            series[match["stem"], int(match["total"])].add(int(match["number"]))
    for (stem, total), numbers in series.items():
        faults.missing += [
            _join(folder, f"{stem}-{number:05d}-of-{total:05d}.safetensors")
            for number in range(1, total + 1)
            if number not in numbers
        ]


def _conversion(
    shape: Layout,
    pipeline: dict[str, str] | None,
    by_folder: dict[str, dict[str, Header]],
    unsafe: tuple[UnsafeFile, ...],
    missing: set[str],
) -> tuple[bool, str]:
    pickled = {str(PurePosixPath(file.path).parent) for file in unsafe} - set(by_folder)
    if shape == "unknown":
        return True, "No safetensors file is here" + (", only files that can run code." if unsafe else ".")
    if shape == "mixed" and pipeline is not None and _complete(pipeline, by_folder, missing):
        beside = sorted(set(by_folder) - set(pipeline))
        shown = ", ".join("the top folder" if folder == "." else folder for folder in beside)
        return (
            False,
            f"A whole Diffusers layout is here, which FastVideo reads; what lies in {shown[:200]} is not needed.",
        )
    if shape != "diffusers":
        return True, f"FastVideo loads the Diffusers layout, and this is {shape}."
    if pipeline is not None and pickled & set(pipeline):
        return True, f"Only files that can run code in: {', '.join(sorted(pickled & set(pipeline)))[:200]}."
    return False, "Diffusers layout in safetensors: FastVideo's loaders read it as it is."


def _complete(pipeline: dict[str, str], by_folder: dict[str, dict[str, Header]], missing: set[str]) -> bool:
    """Whether every component of the pipeline that has weights has all of its own."""
    wanted = [
        folder for folder, name in pipeline.items() if layout.kind_of(folder, name) not in ("tokenizer", "scheduler")
    ]
    cut = {str(PurePosixPath(name).parent) for name in missing}
    return bool(wanted) and all(folder in by_folder and folder not in cut for folder in wanted)


def _hash(
    root: Path, home: Path, headers: dict[str, Header], report: Callable[[float, float | None, str], None]
) -> tuple[FileFacts, ...]:
    total = sum(header.file_bytes for header in headers.values())
    done, lock = 0, threading.Lock()

    def advance(path: Path, read: int) -> None:
        nonlocal done
        with lock:
            done += read
            report(done, total, f"hashing {path.name}: {done / 2**30:.2f} of {total / 2**30:.2f} GiB in all")

    hashes = hash_files(home, [root / name for name in headers], advance)
    return tuple(
        FileFacts(path=name, bytes=header.file_bytes, tensors=len(header.tensors), sha256=digest)
        for (name, header), digest in zip(headers.items(), hashes, strict=True)
    )


def _custom_code(listing: Listing) -> tuple[str, ...]:
    found = [
        f"{name}: auto_map"
        for name in listing.sizes
        if PurePosixPath(name).name in _CONFIGS and "auto_map" in (listing.json(name) or {})
    ]
    return tuple(found + listing.with_suffix(".py"))


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"
