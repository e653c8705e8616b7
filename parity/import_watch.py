"""What the processes of a script execute and open, told to whoever runs the script.

A copy of this file named ``sitecustomize.py`` stands on the PYTHONPATH of the script, so that every Python process that
descends from it reports too: FastVideo builds its models in spawned workers, whose modules the script never sees. An
audit hook is told of each module when it is executed, which also holds for a process that is killed later; what it
reports cannot be taken back. It needs the standard library alone and imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any

VARIABLE = "FASTVIDEO_PORT_WATCH"
"""Environment variable with the settings, as JSON: ``socket``, ``worktree``, ``official``, ``patches``."""
MEDIA = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif", ".m4v", ".png", ".jpg", ".jpeg", ".webp")
VIDEOS = MEDIA[:7]
FOREIGN = ("diffusers", "transformers")
_STAGES = ("fastvideo.pipelines.stages.denoising", "fastvideo.pipelines.stages.decoding")
_LONGEST = 4000


class Sources:
    """What was compiled and read below some folders, with the bytes' SHA-256 at that moment.

    A file that is hashed after it ran may be another one by then, and bytecode beside it may be of another source.
    So modules below the folders are compiled from the bytes that are hashed, and their bytecode is neither looked at
    nor written. That of other modules is written even where the environment forbids it to keep the worktree clean: in
    an environment installed without bytecode each process would compile torch and diffusers anew (7 s of 12).

    Attributes:
        compiled: Path of each module -> SHA-256 of what was compiled first. A link below the folders counts by its own
            name, wherever it leads.
        opened: Path of each other file that was opened to read -> SHA-256 of what it held then. Of Python source that
            was read as text, only what was executed.
        again: Files that were compiled or opened a second time with other content.

    ``each(kind, path, digest)`` is called for every file, of kind ``file`` (executed) or ``data`` (read); what it
    raises for a module stops its import.
    """

    def __init__(
        self, folders: Sequence[str], each: Callable[[str, str, str], None] | None = None, apart: Sequence[str] = ()
    ) -> None:
        self.folders = tuple(dict.fromkeys(name for path in folders for name in (_named(path), _folder(path))))
        self._environments = tuple(env for p in (sys.prefix, sys.base_prefix) for env in (_named(p), _folder(p)))
        self._real: dict[str, str] = {}
        others = [name for path in apart for name in (_named(path), _folder(path))]
        self.apart = tuple(name for name in (*self._environments, *others) if name.startswith(self.folders))
        self.compiled: dict[str, str] = {}
        self.opened: dict[str, str] = {}
        self.again: set[str] = set()
        self.each = each
        self._written: set[str] = set()
        self._modules: set[str] = set()
        self._code: dict[str, tuple[str, str]] = {}
        self._busy = threading.local()

    def install(self) -> None:
        """From now on, in this process, for good."""
        loader: Any = importlib.machinery.SourceFileLoader
        stats, compile_ = loader.path_stats, loader.source_to_code

        def path_stats(this: Any, path: str) -> Any:
            if where := self.name_of(path):
                self._modules.add(where)
                raise OSError("bytecode of this file is not used")  # the loader goes on with the source
            return stats(this, path)

        def source_to_code(this: Any, data: Any, path: str, **options: Any) -> Any:
            where = self.name_of(os.fsdecode(path))
            if where and isinstance(data, bytes):
                self._note("file", where, hashlib.sha256(data).hexdigest())
            return compile_(this, data, path, **options)

        loader.path_stats, loader.source_to_code = path_stats, source_to_code
        sys.dont_write_bytecode = False
        sys.addaudithook(self._audit)

    def covers(self, path: str) -> bool:
        """Whether a path lies below the folders, outside of this interpreter's environment and git's own folder."""
        return path.startswith(self.folders) and not path.startswith(self.apart) and f"{os.sep}.git{os.sep}" not in path

    def name_of(self, path: str) -> str:
        """The name by which a path lies below the folders: as given, else with links followed; "" if it does not."""
        named = os.path.abspath(path)
        if self.covers(named):
            return named
        real = self._resolved(named)
        return real if self.covers(real) else ""

    def _resolved(self, named: str) -> str:
        """The path with links followed; the folders of the environments, with thousands of modules, once each."""
        folder, slash, name = named.rpartition(os.sep)
        if not named.startswith(self._environments) or os.path.islink(named):
            return os.path.realpath(named)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder] + slash + name

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "exec") or getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            self._open(*arguments) if event == "open" else self._exec(arguments[0])
        except Exception:  # an error here would become one of the code that opens the file
            pass
        finally:
            self._busy.now = False

    def _open(self, path: object, mode: str | None, flags: int) -> None:
        if isinstance(path, int) or path is None:
            return
        where = self.name_of(os.fsdecode(path))  # type: ignore[arg-type]
        if not where or where.lower().endswith(_NO_DATA):
            return
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._written.add(where)
            return
        found = os.stat(where)
        # What this process itself wrote is no input of it.
        if where in self._written or not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            return
        if where in self._modules or len(self.opened) + len(self._code) >= _MOST_OPENED:
            return
        with open(where, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if where.endswith(".py"):
            self._code[where] = (digest, _caller())
        else:
            self._note("data", where, digest)

    def _exec(self, code: object) -> None:
        """Code that was read as text counts once it is executed: FastVideo's registry looks through all models."""
        if not isinstance(code, CodeType) or code.co_name != "<module>" or not self._code:
            return
        frame = sys._getframe(2)
        own = self.name_of(code.co_filename) if not code.co_filename.startswith("<") else ""
        for path, (digest, reader) in list(self._code.items()):
            if own == path or frame.f_code.co_filename == reader:
                self._note("data", path, digest)

    def _note(self, kind: str, path: str, digest: str) -> None:
        known = self.compiled if kind == "file" else self.opened
        if known.setdefault(path, digest) != digest:
            self.again.add(path)
        if self.each:
            self.each(kind, path, digest)


def _caller() -> str:
    """File of the innermost code outside this file and the standard library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if (
            name != __file__ and not name.startswith(("<frozen", _LIBRARY))
        ) or f"{os.sep}site-packages{os.sep}" in name:
            return name
        frame = frame.f_back
    return ""


_LIBRARY = os.path.dirname(os.__file__) + os.sep
_NO_DATA = (".pyc", ".safetensors", ".log", *MEDIA)
"""Bytecode is never used; weights have a digest of their own; logs and pictures are written by runs."""
_LARGEST = 64 << 20
_MOST_OPENED = 400


class Watch:
    """The hook of one process.

    Attributes:
        worktree, official: Folders whose modules are reported, with a separator at the end; official may be "".
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.address = settings["socket"]
        self.worktree = _folder(settings["worktree"])
        self.official = _folder(settings["official"]) if settings.get("official") else ""
        self.said: set[str] = set()
        self.sources = Sources([settings["worktree"]], self._read)

    def say(self, **message: str) -> None:
        """Send one message, once."""
        text = json.dumps(message)
        if text in self.said or len(text) > _LONGEST:
            return
        self.said.add(text)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(text.encode(), self.address)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        try:
            if event == "exec":
                self._executed(arguments[0])
            elif event == "open":
                self._path(arguments[0])
            elif event in ("os.rename", "os.link", "os.symlink"):
                self._path(arguments[0])
                self._path(arguments[1])
            elif event == "subprocess.Popen":
                given = arguments[1]
                for word in given if isinstance(given, (list, tuple)) else []:
                    self._path(word)
        except Exception:  # an error here would become one of the script's
            pass

    def _executed(self, code: object) -> None:
        if not isinstance(code, CodeType) or code.co_name != "<module>" or code.co_filename.startswith("<"):
            return
        name = code.co_filename
        path = os.path.realpath(name)
        if self.official and path.startswith(self.official):
            self.say(kind="official", path=path)
        elif inside := self.sources.name_of(name):
            # The main script, and code that was compiled in another way than by an import: the file as it is now.
            if inside not in self.sources.compiled:
                with open(inside, "rb") as file:
                    self._read("file", inside, hashlib.sha256(file.read()).hexdigest())
        else:
            self._foreign(path.replace(os.sep, "/"))

    def _read(self, kind: str, path: str, digest: str) -> None:
        """A file of the worktree that was executed or read, as it was then; by its name below the worktree."""
        folder = next(name for name in self.sources.folders if path.startswith(name))
        self.say(kind=kind, path=path[len(folder) :].replace(os.sep, "/"), sha256=digest)

    def _foreign(self, path: str) -> None:
        """A file with model classes of diffusers or transformers, if a file of the port asked for it."""
        for package in FOREIGN:
            _, found, inner = path.partition(f"/site-packages/{package}/")
            if found and is_model_file(package, inner):
                by = self._asked(sys._getframe(2))
                if by:
                    self.say(kind="foreign", module=f"{package}.{inner[:-3].replace('/', '.')}", by=by)

    def _asked(self, frame: FrameType | None) -> str:
        """Place in the port that asked for the module being executed; "" where another library's module did."""
        own = os.path.join(self.worktree, "fastvideo") + os.sep
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(own):
                return f"{file[len(self.worktree) :].replace(os.sep, '/')}:{frame.f_lineno}"
            if frame.f_code.co_name == "<module>" and not file.endswith("__init__.py"):
                return ""
            frame = frame.f_back
        return ""

    def _path(self, path: object) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if hasattr(path, "__fspath__"):
            path = os.fspath(path)
        if isinstance(path, str) and path.lower().endswith(VIDEOS):
            self.say(kind="media", path=os.path.abspath(path))


def is_model_file(package: str, inner: str) -> bool:
    """Whether a file of diffusers or transformers, relative to the package, holds model classes."""
    if package == "diffusers":
        return inner.startswith(("models/", "pipelines/")) and not inner.endswith(("__init__.py", "_utils.py"))
    return inner.startswith("models/") and os.path.basename(inner).startswith("modeling_")


class _CpuAutocast:
    """``torch``, as a stage sees it whose autocast on cuda has to be the CPU's."""

    def __getattr__(self, name: str) -> Any:
        import torch

        if name != "autocast":
            return getattr(torch, name)
        return lambda device_type, **options: torch.autocast(device_type="cpu", **options)


class Patcher(importlib.abc.MetaPathFinder):
    """Applies the port's environment patches to FastVideo's modules, right after each has been executed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.busy = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        """The spec that the other finders give, with a loader that patches."""
        if self.busy or not fullname.startswith("fastvideo.") or fullname not in self._wanted():
            return None
        import importlib.util

        self.busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return spec
        execute, change = spec.loader.exec_module, self._change

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _wanted(self) -> set[str]:
        found = set()
        if "cpu-attention" in self.names:
            found.add("fastvideo.platforms.cpu")
        if "cpu-autocast" in self.names:
            found |= set(_STAGES)
        if "cpu-device" in self.names:
            loader = "fastvideo.models.loader.component_loader"
            found |= {"fastvideo.distributed", "fastvideo.distributed.parallel_state", loader}
        return found

    def _change(self, module: ModuleType) -> None:
        if module.__name__ == "fastvideo.platforms.cpu":
            backend = "fastvideo.attention.backends.sdpa.SDPABackend"
            module.CpuPlatform.get_attn_backend_cls = classmethod(lambda cls, *args, **kwargs: backend)
            return
        if module.__name__ in _STAGES:
            module.torch = _CpuAutocast()  # type: ignore[attr-defined]
            return
        import torch

        module.get_local_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]


def _folder(path: str) -> str:
    return os.path.realpath(path) + os.sep


def _named(path: str) -> str:
    return os.path.abspath(path) + os.sep


def start(settings: dict[str, Any]) -> None:
    """Watch this process from now on."""
    watch = Watch(settings)
    watch.say(kind="start", pid=str(os.getpid()), parent=str(os.getppid()), python=sys.version.split()[0])
    sys.addaudithook(watch)
    watch.sources.install()
    if settings.get("patches"):
        sys.meta_path.insert(0, Patcher(settings["patches"]))


def _as_sitecustomize() -> None:
    """Start, then make way for the environment's own ``sitecustomize``, if it has one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    if os.environ.get(VARIABLE):
        start(json.loads(os.environ[VARIABLE]))
    own = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ImportError:
        sys.modules["sitecustomize"] = own


if __name__ == "sitecustomize":
    _as_sitecustomize()
