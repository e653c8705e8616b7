"""Weights that arrived bit for bit in the wrong one of two equal modules.

The mapping rules are the port's own, so a rule that leads the query's weights to the key passes the proof: every value
arrives. What shows it is a module that is handed the tensor of another one. Which of the two is wrong, the wiring or
the weights, the numbers cannot tell; the names can: weights whose names fit better the other way round were crossed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from .blame import Blame, Culprit
from .boundaries import Comparison
from .pairing import Pair
from .proof import Link
from .trace import Call


class CrossedWeights:
    """Finds crossed weights behind wrong inputs.

    Args:
        comparison: Of the port's trace with the official one.
        blame: For the producers of tensors.
        links: Where the official tensors are in the port.
    """

    def __init__(self, comparison: Comparison, blame: Blame, links: Iterable[Link]) -> None:
        self.comparison = comparison
        self.blame = blame
        self.port_of: dict[str, str] = {}
        for pair in comparison.pairs.values():
            self.port_of.setdefault(pair.official, pair.port)
        self.home: dict[str, tuple[str, tuple[int, int]]] = {}
        for link in links:
            if link.rows is not None:
                self.home.setdefault(link.official.rpartition(".")[0], (link.port, link.rows))
        self.order = {name: number for number, name in enumerate(comparison.reference.modules)}

    def behind(self, call: Call, wrong: list[int]) -> Culprit | None:
        """The module whose weights were crossed, if that explains the wrong inputs of ``call``; else none."""
        pair, other = self.comparison.pairs.get(call.module), self.comparison.counterpart(call)
        if pair is None or other is None:
            return None
        for place, tensor in enumerate(index for _, index in call.inputs):
            given = self.comparison.explained(tensor) if tensor in wrong else None
            if given is None or place >= len(other.inputs):
                continue
            expected = other.inputs[place][1]
            found = self.consumer(pair, given) or self.producer(tensor, given, expected) or self.merged(given, expected)
            if found is not None:
                return found
        return None

    def consumer(self, pair: Pair, given: int) -> Culprit | None:
        """The module that is handed the tensor holds the weights of another one."""
        for call in self.comparison.reference.calls:
            if call.module != pair.official and any(self.comparison.one_value(i, given) for _, i in call.inputs):
                twin = self.port_of.get(call.module)
                if twin is not None and _fits_better(pair.port, pair.official, twin, call.module):
                    return self.culprit(pair.port, pair.official, call.module)
        return None

    def producer(self, tensor: int, given: int, expected: int) -> Culprit | None:
        """The module that made the tensor holds the weights of another one."""
        mine = self.returned_by(tensor, given)
        pair = self.comparison.pairs.get(mine)
        wanted = self.maker_of(expected)
        twin = self.port_of.get(wanted) if wanted else None
        if pair is None or twin is None or wanted is None or self.maker_of(given) != pair.official:
            return None
        return self.culprit(mine, pair.official, wanted) if _fits_better(mine, pair.official, twin, wanted) else None

    def takes_its_own(self, call: Call, argument: str, was: str) -> bool:
        """Whether two arguments of a call are the right ones by the names of its parameters: ``q`` is handed a query.

        Then not the caller exchanges them but the called code.
        """
        inputs = dict(call.inputs)
        info = self.comparison.port.modules.get(call.module)
        names = [_parameter(info.parameters if info else [], place) for place in (argument, was)]
        makers = [
            self.maker_of(known) if (known := self.comparison.explained(inputs[place])) is not None else None
            for place in (argument, was)
        ]
        if not all(names) or not all(makers):
            return False
        (mine, other), (first, second) = names, (str(maker) for maker in makers)
        return _alike(mine, first) + _alike(other, second) > _alike(mine, second) + _alike(other, first)

    def returned_by(self, tensor: int, given: int) -> str:
        """The port's module that returned a tensor, or whose result an official one took the place of."""
        maker = self.blame.producer.get(tensor)
        if maker is not None:
            return self.comparison.port.calls[maker].module
        known = self.comparison.explained
        calls = [c for c in self.comparison.port.calls if c.ended >= 0 and "::" not in c.module]
        found = [
            c
            for c in calls
            if any((e := known(i)) is not None and self.comparison.one_value(e, given) for _, i in c.outputs)
        ]
        return min(found, key=lambda call: call.ended).module if found else ""

    def merged(self, given: int, expected: int) -> Culprit | None:
        """Both tensors come from rows of one merged weight, and its rows are not in the official order."""
        first, second = self.maker_of(given), self.maker_of(expected)
        if first is None or second is None or first not in self.home or second not in self.home:
            return None
        (target, rows), (other, other_rows) = self.home[first], self.home[second]
        if target != other or (rows < other_rows) == self.comes_first(target, first, second):
            return None
        return self.culprit(target.rpartition(".")[0], first, second)

    def comes_first(self, target: str, first: str, second: str) -> bool:
        """Whether the rows of ``first`` belong before those of ``second``.

        The merged weight's own name says it where it can (``qkv_proj`` of ``k_proj`` and ``q_proj``); else the order in
        which the official model holds the two.
        """
        merged = target.rpartition(".")[0].rpartition(".")[2]
        own = [set(re.split(r"[._]", name.rpartition(".")[2])) for name in (first, second)]
        places = [[merged.find(part) for part in mine - theirs if part in merged] for mine, theirs in (own, own[::-1])]
        if all(places) and min(places[0]) != min(places[1]):
            return min(places[0]) < min(places[1])
        return self.order[first] < self.order[second]

    def maker_of(self, index: int) -> str | None:
        """The innermost official module that returned a tensor."""
        makers = [
            call
            for call in self.comparison.reference.calls
            if any(self.comparison.one_value(i, index) for _, i in call.outputs)
        ]
        return min(makers, key=lambda call: call.ended).module if makers else None

    def culprit(self, module: str, held: str, wanted: str) -> Culprit:
        info = self.comparison.port.modules[module]
        why = (
            f"{module!r} holds the weights of {held!r} where those of {wanted!r} belong: its input and its code agree "
            "with that module. Every value arrived, in the wrong one of two equal places: look at the mapping rules."
        )
        return Culprit(module, held, "weights", info.file, info.line, info.end_line, why, "certain")


def _fits_better(first: str, official_first: str, second: str, official_second: str) -> bool:
    """Whether two pairs of names fit better when they change partners."""
    now = _alike(first, official_first) + _alike(second, official_second)
    return _alike(first, official_second) + _alike(second, official_first) > now


def _alike(a: str, b: str) -> float:
    """Likeness of the last parts of two qualified names: the words that they share, then their letters; from 0 to 2."""
    first, second = a.rpartition(".")[2].lower(), b.rpartition(".")[2].lower()
    words = [set(re.findall(r"[a-z]+|\d+", name)) for name in (first, second)]
    shared = 2 * len(words[0] & words[1]) / max(len(words[0]) + len(words[1]), 1)
    return shared + difflib.SequenceMatcher(None, first, second).ratio()


def _parameter(names: list[str], argument: str) -> str:
    """The parameter that a leaf ``[1]`` or ``[3].key`` of a call's arguments was handed to."""
    place, _, key = argument.partition(".")
    if key:
        return key
    number = place.strip("[]")
    return names[int(number)] if number.isdigit() and int(number) < len(names) else ""
