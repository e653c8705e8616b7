"""How often the garbage collector looks: seldom while a process imports, as usual once a model is loaded.

Importing torch, diffusers and FastVideo makes millions of objects that live to the end; looking through them again and
again is a quarter of the time. What a model leaves behind while it runs is collected as everywhere else.
"""

from __future__ import annotations

import gc

SELDOM = (1_000_000, 20, 20)
_usual = gc.get_threshold()


def seldom() -> None:
    """From now on look after every million new objects."""
    gc.set_threshold(*SELDOM)


def as_usual() -> None:
    """From now on look as often as the interpreter does by itself; what is there counts as old, unlooked at."""
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
    gc.set_threshold(*_usual)
