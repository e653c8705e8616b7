"""Where in the code a wrong tensor was made, when everything that the code was given is right.

With official tensors forced upon the port, every compared call returns the right tensors. So a wrong one was made after
the last compared call before it: by a call that has no counterpart, or by the code between the calls.
"""

from __future__ import annotations

from .blame import Blame, Culprit, how_it_is_built, named, where_to_look
from .boundaries import GROSS, Comparison
from .made_of import first_line
from .sketch import sketch_distance
from .trace import Call
from .verdict import BOUNDARY_FAIL, ratio


class Places:
    """Names places of a forced port.

    Args:
        comparison: The forced port against the official model.
        blame: For what equals an official tensor.
        compared: Indices of the port's calls whose outputs were compared (and then replaced by official ones).

    Attributes:
        receiver: Of a culprit that hands an unknown tensor to a call without counterpart: that call. Only an experiment
            can tell which of the two is wrong.
    """

    def __init__(self, comparison: Comparison, blame: Blame, compared: set[int]) -> None:
        self.comparison = comparison
        self.calls = comparison.port.calls
        self.blame = blame
        self.compared = compared
        self.sizes: set[int] | None = None
        self.receiver: dict[Culprit, int] = {}

    def before(self, index: int, wrong: list[int], numbers: str) -> Culprit:
        """Call ``index`` is handed the tensors ``wrong``."""
        call = self.calls[index]
        if call.parent < 0:
            return self.outside(index, numbers) if call.module else self.module(call, numbers, sure=False)
        left = self.left_behind(wrong, call, numbers)
        if left is not None:
            return left
        index = self.handed_down(index, wrong)
        call = self.calls[index]
        if call.parent < 0:
            return self.outside(index, numbers) if call.module else self.module(call, numbers, sure=False)
        siblings = [i for i in self.comparison.port.children(call.parent) if i < index]
        return self.between(call.parent, siblings, wrong, numbers, call)

    def handed_down(self, index: int, wrong: list[int]) -> int:
        """The outermost call around ``index``, or that call, that is handed the wrong tensors for the right ones.

        A call that hands on what it is handed makes nothing wrong if its counterpart is handed what belongs there.
        """
        parent = self.calls[index].parent
        while parent >= 0 and wrong:
            call = self.calls[parent]
            other = self.comparison.counterpart(call)
            given = [tensor for _, tensor in call.inputs]
            theirs = [tensor for _, tensor in other.inputs] if other else []
            if not all(self.passes_on(tensor, given, theirs) for tensor in wrong):
                break
            index, parent = parent, call.parent
        return index

    def passes_on(self, wrong: int, given: list[int], theirs: list[int]) -> bool:
        """Whether a wrong tensor is among what a call is given, and what belongs there among ``theirs``."""
        expected, alike = self.blame.expected.get(wrong), self.comparison.forced_alike
        return (
            expected is not None
            and any(alike(self.comparison.port, wrong, tensor) for tensor in given)
            and any(alike(self.comparison.reference, expected, tensor) for tensor in theirs)
        )

    def outside(self, index: int, numbers: str) -> Culprit:
        """A call that no traced module makes: by a method of the model that is not its forward (``encode``)."""
        call = self.calls[index]
        earlier = [c for c in self.calls[:index] if c.parent < 0 and c.file == call.file and c.line <= call.line]
        start = earlier[-1].line if earlier else call.line
        why = (
            f"What {named(call)} is handed by {call.function or 'its caller'}, line {call.line}, is not the official "
            f"tensor; {numbers}. Look at the code before that line."
        )
        return Culprit("", None, "glue", call.file, start, call.line, why, "certain")

    def left_behind(self, wrong: list[int], user: Call, numbers: str) -> Culprit | None:
        """The call that put a wrong tensor into an argument of its own (a cache, metadata), to be read later."""
        for call in sorted(self.calls, key=lambda call: call.ended):
            for name, tensor in call.writes:
                if tensor in wrong and call.ended >= 0:
                    info = self.comparison.port.modules.get(call.module)
                    why = (
                        f"{named(call)} leaves something else than the official tensor in its argument {name}, which "
                        f"{named(user)} (line {user.line}) is handed later: {numbers}."
                    )
                    line, end = (info.line, info.end_line) if info else (call.line, call.line)
                    official = self.blame.official(call)
                    file = info.file if info else call.file
                    return Culprit(call.module, official, "glue", file, line, end, why, "certain")
        return None

    def handed_over(self, index: int, wrong: list[int], numbers: str, depth: int = 0) -> Culprit:
        """Call ``index`` is handed right tensors in the wrong places: the code of its caller, before the call.

        Or what a call without counterpart made wrong: that call.
        """
        index = self.handed_down(index, wrong)
        call = self.calls[index]
        siblings = [i for i in self.comparison.port.children(call.parent) if i < index]
        makers = [i for i in siblings if any(t in wrong for _, t in self.calls[i].outputs)]
        if makers and makers[-1] not in self.compared and depth < 20:
            made = [t for _, t in self.calls[makers[-1]].outputs if t in wrong]
            if all(self.comparison.explained(tensor) is None for tensor in made):
                return self.inside(makers[-1], numbers, depth + 1)
        last = self.calls[(makers or siblings)[-1]] if siblings else None
        return self.glue(call.parent, last, call, numbers, wrong, sure=True)

    def inside(self, index: int, numbers: str, depth: int = 0) -> Culprit:
        """Call ``index`` returns something wrong although it was given the right tensors."""
        call = self.calls[index]
        children = self.comparison.port.children(index)
        if index not in self.compared and call.parent >= 0 and (foreign := self.foreign(index)):
            return self.handed_over(index, foreign, numbers)
        if not any("::" not in self.calls[child].module for child in children) or depth > 20:
            if index in self.compared and call.parent >= 0 and (fewer := self.given_fewer(call)):
                return self.handed_over(index, [], f"{fewer}; {numbers}")
            if index in self.compared and call.parent >= 0 and (number := self.other_number(call)):
                return self.handed_over(index, number, numbers)
            return self.module(call, numbers, sure=index in self.compared)
        wrong = self.wrong_outputs(call) or [tensor for _, tensor in call.outputs]
        return self.between(index, children, wrong, numbers, None, depth)

    def wrong_outputs(self, call: Call) -> list[int]:
        """Which of the tensors that a compared call returned differ from the official ones in their places."""
        other = self.comparison.counterpart(call)
        if other is None or len(other.outputs) != len(call.outputs):
            return []
        found = []
        for (_, a), (_, b) in zip(call.outputs, other.outputs, strict=True):
            errors = self.comparison.errors(a, b)
            if errors is None or not ratio(errors[0], errors[1]) <= BOUNDARY_FAIL:
                found.append(a)
        return found

    def given_fewer(self, call: Call) -> str:
        """What a module of the same weights is not given as its counterpart is, in words; ``""`` if nothing.

        A convolution without its cache, or with a shorter one, computes what it should of what it was given.
        """
        pair, other = self.comparison.pairs.get(call.module), self.comparison.counterpart(call)
        if pair is None or other is None or pair.how != "weights":
            return ""
        mine, theirs = (
            {
                name: trace.tensors[index].elements
                for name, index in one.inputs
                if trace.tensors[index].elements > 1 and "float" in trace.tensors[index].dtype
            }
            for trace, one in ((self.comparison.port, call), (self.comparison.reference, other))
        )
        missing = [name for name in theirs if name not in mine]
        if mine and set(mine) < set(theirs):
            return f"the official code hands it {', '.join(missing[:3])} as well"
        sized = [name for name in theirs if name in mine and mine[name] != theirs[name]]
        if missing or not sized or len(sized) == len(theirs):  # what all is of another size is another way of counting
            return ""
        return "; ".join(f"its {name} has {mine[name]} elements, the official one {theirs[name]}" for name in sized[:3])

    def other_number(self, call: Call) -> list[int]:
        """The single numbers that a call is handed (a time, a guidance) where its counterpart is handed other ones.

        What a module makes of another number cannot be compared: whoever handed it over is to blame.
        """
        other = self.comparison.counterpart(call)
        if other is None or len(call.inputs) != len(other.inputs):
            return []
        found = []
        for (_, a), (_, b) in zip(call.inputs, other.inputs, strict=True):
            mine, theirs = self.comparison.port.tensors[a], self.comparison.reference.tensors[b]
            if mine.elements == theirs.elements == 1 and "float" in mine.dtype and "float" in theirs.dtype:
                errors = self.comparison.errors(a, b)
                if errors is not None and not ratio(errors[0], errors[1]) <= BOUNDARY_FAIL:
                    found.append(a)
                    self.blame.expected[a] = b
        return found

    def foreign(self, index: int) -> list[int]:
        """Inputs of a call without counterpart that the official model has, but nowhere in this part of it.

        Another block's mask or bias is an official tensor all the same. The part is the innermost module around the
        call that has a counterpart.
        """
        around = self.calls[index].parent
        while around >= 0 and self.calls[around].module not in self.comparison.pairs:
            around = self.calls[around].parent
        if around < 0 or not self.calls[around].module:
            return []
        part = self.comparison.pairs[self.calls[around].module].official
        there = {
            tensor
            for call in self.comparison.reference.calls
            if call.module == part or call.module.startswith((f"{part}.", f"{part}::"))
            for _, tensor in (*call.inputs, *call.outputs)
        }
        found = []
        for _, tensor in self.calls[index].inputs:
            known = self.comparison.explained(tensor) if self.comparison.port.tensors[tensor].elements > 1 else None
            if known is not None and not any(self.comparison.one_value(known, other) for other in there):
                found.append(tensor)
        return found

    def between(
        self, parent: int, calls: list[int], wrong: list[int], numbers: str, user: Call | None, depth: int = 0
    ) -> Culprit:
        """The wrong tensors were made in ``parent``, after some of its ``calls`` and before ``user`` (or its end)."""
        for child in reversed(calls):
            if child in self.compared or self.only_contains(child):
                return self.glue(parent, self.calls[child], user, numbers, wrong, sure=True)
            if self.made(child, wrong):
                if self.once_more(child):
                    return self.blame.extra(child, numbers)
                if self.given_unknown(child, parent):
                    culprit = self.glue(parent, None, self.calls[child], numbers, [], sure=False)
                    self.receiver[culprit] = child
                    return culprit
                unknown = self.passed_through(child, parent, wrong) if parent not in self.compared else []
                outer = self.calls[parent].parent
                if unknown and outer >= 0 and depth < 20:
                    earlier = [i for i in self.comparison.port.children(outer) if i < parent]
                    return self.between(outer, earlier, unknown, numbers, self.calls[parent], depth + 1)
                return self.inside(child, numbers, depth + 1)
        handed = self.handed_in(parent, wrong)
        if handed and self.calls[parent].parent >= 0 and parent not in self.compared and depth < 20:
            if all(self.comparison.explained(tensor) is not None for tensor in handed):
                return self.handed_over(parent, handed, numbers)  # whoever made them made what was right
            outer = self.calls[parent].parent
            earlier = [i for i in self.comparison.port.children(outer) if i < parent]
            return self.between(outer, earlier, handed, numbers, self.calls[parent], depth + 1)
        last = self.calls[calls[-1]] if calls else None
        return self.glue(parent, last, user, numbers, wrong, sure=parent in self.compared)

    def only_contains(self, child: int) -> bool:
        """Whether a call is torch's own container, which returns what its last module does, and that was compared."""
        info = self.comparison.port.modules.get(self.calls[child].module)
        inside = self.comparison.port.children(child)
        container = info is not None and info.cls == "torch.nn.modules.container.Sequential"
        return container and bool(inside) and inside[-1] in self.compared

    def made(self, child: int, wrong: list[int]) -> bool:
        """Whether a call without counterpart returned a wrong tensor, or an unknown one of its size.

        Not if what it returned is official and was put in another order afterwards.
        """
        returned = [tensor for _, tensor in self.calls[child].outputs]
        handed_on = any(
            self.blame.same(a, b) and not self.comparison.only_one_in_order(a, b) for a in returned for b in wrong
        )
        return handed_on or self.blame.returned_unknown(child, wrong)

    def once_more(self, child: int) -> bool:
        """Whether a call is one more than the official model makes of the same module."""
        call = self.calls[child]
        pair = self.comparison.pairs.get(call.module)
        if pair is None or call.occurrence == 0:
            return False
        counted = self.comparison.reference_calls
        return (pair.official, 0) in counted and (pair.official, call.occurrence) not in counted

    def given_unknown(self, child: int, parent: int) -> bool:
        """Whether a call without counterpart is given a tensor that its caller made and the official model does not."""
        outer = [tensor for _, tensor in self.calls[parent].inputs]
        ids = [tensor for _, tensor in self.calls[child].inputs if self.is_unknown_ids(tensor)]
        strange = self.blame.unexplained_inputs(self.calls[child]) + ids
        return any(not any(self.blame.same(tensor, given) for given in outer) for tensor in strange)

    def is_unknown_ids(self, tensor: int) -> bool:
        """Whether a tensor holds integers (ids, positions) that the official model has nowhere."""
        port = self.comparison.port.tensors[tensor]
        return "int" in port.dtype and port.elements > 1 and self.comparison.explained(tensor) is None

    def passed_through(self, child: int, parent: int, wrong: list[int]) -> list[int]:
        """What a call without counterpart is given by its caller's caller, unknown to the official model and as large
        as what came of it: it was wrong before."""
        port = self.comparison.port
        sizes = {port.tensors[tensor].elements for tensor in wrong}
        outer = [tensor for _, tensor in self.calls[parent].inputs]
        strange = self.blame.unexplained_inputs(self.calls[child])
        return [
            given
            for given in outer
            if port.tensors[given].elements in sizes and any(self.blame.same(given, tensor) for tensor in strange)
        ]

    def handed_in(self, parent: int, wrong: list[int]) -> list[int]:
        """Inputs of a call without counterpart that are the wrong tensors themselves, or unknown single numbers.

        Or, if there are none, other tensors that the official model does not have.
        """
        given = [tensor for _, tensor in self.calls[parent].inputs]
        # One that is official was right as it was given, and the call had to make another of it and did not: unless
        # what belongs there is the result of a module that it does not have, which the caller did not hand over.
        passed = [
            a
            for a in given
            for b in wrong
            if self.blame.same(a, b)
            and (self.comparison.explained(a) is None or self.out_of_order(a) or self.withheld(b, given, parent))
        ]
        single = [
            a
            for a in given
            if self.comparison.port.tensors[a].elements == 1
            and self.comparison.port.tensors[a].norm > 0
            and "float" in self.comparison.port.tensors[a].dtype
            and self.comparison.explained(a) is None
            and not self.is_size(a)
        ]
        return passed or single or self.blame.unexplained_inputs(self.calls[parent])

    def out_of_order(self, tensor: int) -> bool:
        """Whether a tensor has the shape of the official one and its values, in another order: tokens joined otherwise.

        Another shape is another way to keep the same (heads before tokens), which the call may expect.
        """
        official = self.comparison.explained(tensor)
        if official is None:
            return False
        mine, theirs = self.comparison.port.tensors[tensor], self.comparison.reference.tensors[official]
        alike = [size for size in mine.shape if size > 1] == [size for size in theirs.shape if size > 1]
        return alike and sketch_distance(mine, theirs) > GROSS

    def withheld(self, wrong: int, given: list[int], parent: int) -> bool:
        """Whether an official module returns what belongs in the place of a wrong tensor, and none of these is it.

        A module of a kind that ``parent`` calls itself does not count, nor one inside its counterpart: that was to make
        it.
        """
        wanted = self.blame.expected.get(wrong)
        if wanted is None:
            return False
        alike = self.comparison.one_value
        known = [self.comparison.explained(tensor) for tensor in given]
        if any(tensor is not None and alike(tensor, wanted) for tensor in known):
            return False
        own = {self.calls[child].cls for child in self.comparison.port.children(parent)}
        makers = [
            call
            for call in self.comparison.reference.calls
            if "::" not in call.module and any(alike(tensor, wanted) for _, tensor in call.outputs)
        ]
        pair = self.comparison.pairs.get(self.calls[parent].module)
        if pair is not None and any(call.module.startswith(f"{pair.official}.") for call in makers):
            return False
        return any(call.cls not in own for call in makers)

    def is_size(self, tensor: int) -> bool:
        """Whether a number is the length of some axis (a text's length, say): sizes follow from the shapes."""
        value = self.comparison.port.tensors[tensor].moments[0]
        if self.sizes is None:
            self.sizes = {size for row in self.comparison.port.tensors for size in row.shape}
        return value in self.sizes

    def deaf(self, index: int, arguments: list[str], numbers: str) -> Culprit:
        """Call ``index`` makes no use of some of its arguments."""
        unused = f"what it returns does not depend on its argument {', '.join(arguments)}"
        return self.module(self.calls[index], f"{unused}; {numbers}", sure=True)

    def module(self, call: Call, numbers: str, *, sure: bool) -> Culprit:
        name = call.module.partition("::")[0]
        info = self.comparison.port.modules.get(name)
        given = "is given right tensors" if sure else "is given nothing that could be shown to be wrong"
        why = f"{named(call)} {given} and returns something else than the official code: {numbers}."
        return Culprit(
            name,
            self.blame.official(call),
            "module",
            *where_to_look(info, call),
            why + how_it_is_built(info),
            "certain" if sure else "likely",
        )

    def made_from(self, parent: int, user: Call | None, wrong: list[int], file: str) -> int | None:
        """The first line of what the wrong tensors were made of, in the function that hands them to ``user`` or returns
        them; none if its source does not tell."""
        owner = self.calls[parent]
        info = self.comparison.port.modules.get(owner.module)
        line = user.line if user else (info.line if info else 0)
        parts = user.module.replace("::", ".").split(".") if user else []
        name = next((part for part in reversed(parts) if not part.isdigit()), "")
        children = [i for i in self.comparison.port.children(parent) if i in self.compared]
        checked = {self.calls[i].line for i in children if self.calls[i].file == file}
        leaves = [leaf for leaf, tensor in (user.inputs if user else owner.outputs) if tensor in wrong]
        found = [first_line(file, line, leaf, checked, name) for leaf in leaves]
        return min((number for number in found if number is not None), default=None)

    def glue(
        self, parent: int, last: Call | None, user: Call | None, numbers: str, wrong: list[int], *, sure: bool
    ) -> Culprit:
        owner = self.calls[parent]
        info = self.comparison.port.modules.get(owner.module.partition("::")[0])
        file = user.file if user else (last.file if last else (info.file if info else ""))
        start = last.line if last and last.file == file else (info.line if info else (user.line if user else 0))
        end = user.line if user else (info.end_line if info and info.file == file else start)
        since = f"after the call of {named(last)} (line {last.line})" if last else "from the start of its forward"
        until = f"what {named(user)} (line {user.line}) is handed" if user else "what it returns"
        why = f"In {named(owner)}, {since}: {until} is not the official tensor; {numbers}. Look at the code in between."
        made = self.made_from(parent, user, wrong, file)
        if made is not None and made < min(start, end):
            why += f" It is made from line {made} on."
            start = made
        return Culprit(
            owner.module.partition("::")[0],
            self.blame.official(owner),
            "glue",
            file,
            min(start, end),
            max(start, end),
            why,
            "certain" if sure else "likely",
        )
