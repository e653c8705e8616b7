"""Stand-ins for torchvision, torchaudio and torchcodec in a CPU-only FastVideo environment.

FastVideo imports these three at module level, and none of them has a CPU build for the pinned torch. Its DiT, VAE and
encoder code never calls them, so an environment that only checks numbers on the CPU can do without. This module lets
``fastvideo`` import the names and refuses every call of them with an error that says so.

What it does not do: it computes nothing, it installs no package, and nobody but ``fastvideo`` sees it. Libraries that
probe for torchvision (transformers, diffusers, accelerate) go on finding that it is not installed, because the
stand-ins never enter ``sys.modules``: the import statement itself is answered, and only for modules of ``fastvideo``.
That is why this wraps ``builtins.__import__`` and is not a finder on ``sys.meta_path``, whose modules everyone sees.

It stays out of the way when the real package is installed, and when torch is a CUDA build: there the real packages
belong, and their absence must show.

A ``.pth`` file beside this module activates it; ``install.py`` writes both. To remove it, delete the two files.
"""

from __future__ import annotations

import builtins
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = ("torchvision", "torchaudio", "torchcodec")
SENTENCE = (
    "This is a stand-in of fastvideo-port's CPU environment, not {name}: "
    "FastVideo may import it, and calling anything in it raises."
)

_real_import = builtins.__import__
_modules: dict[str, ModuleType] = {}
_wanted: dict[str, bool] = {}


class StandInCalled(ImportError):
    """FastVideo used something that this CPU environment does not have.

    It is an ImportError, so code that falls back when the package is missing still falls back.
    """


class _Absent(type):
    """The class of a name that can be imported, annotated with and derived from, but not used."""

    path: str

    def __getattr__(cls, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{cls.path}.{name}")

    def __call__(cls, *args: object, **kwargs: object) -> object:
        raise StandInCalled(
            f"{cls.path} was called, but {cls.path.partition('.')[0]} is only a stand-in in this CPU environment.\n"
            f"Seen: {__file__}\n"
            "Do: run this on an environment with the real package (a CUDA torch and its torchvision)."
        )

    def __repr__(cls) -> str:
        return f"<stand-in for {cls.path}>"


def _absent(path: str) -> _Absent:
    return _Absent(path.rpartition(".")[2], (), {"path": path})


class _StandIn(ModuleType):
    """A module whose every attribute is an absent name, and whose submodules are more of the same."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{self.__name__}.{name}"
        return _modules[path] if path in _modules else _absent(path)


def _module(path: str) -> ModuleType:
    """The stand-in module ``path``, made with its parents on first use."""
    if path not in _modules:
        parent = path.rpartition(".")[0]
        if parent:
            _module(parent)
        module = _StandIn(path, SENTENCE.format(name=path))
        module.__dict__["__fastvideo_port_standin__"] = SENTENCE.format(name=path)
        module.__path__ = []
        _modules[path] = module
    return _modules[path]


def _is_wanted(top: str) -> bool:
    """Whether ``top`` is answered here: not installed, and torch is a CPU build."""
    if top not in _wanted:
        from importlib.util import find_spec

        import torch.version

        _wanted[top] = top not in sys.modules and find_spec(top) is None and torch.version.cuda is None
    return _wanted[top]


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """``__import__``, except that ``fastvideo`` asking for one of NAMES gets the stand-in."""
    if level == 0 and name.startswith(NAMES):
        top = name.partition(".")[0]
        scope = globals or {}
        importer = str(scope.get("__package__") or scope.get("__name__") or "")
        if top in NAMES and importer.partition(".")[0] == "fastvideo" and _is_wanted(top):
            module = _module(name)
            return module if fromlist else _module(top)
    return _real_import(name, globals, locals, fromlist or (), level)


def activate() -> None:
    """Answer FastVideo's imports from now on; a second call changes nothing."""
    if builtins.__import__ is not _import:
        builtins.__import__ = _import
