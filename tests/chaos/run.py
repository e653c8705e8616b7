"""Let every fault happen and print what was seen: `make chaos`.

    python tests/chaos/run.py [--only TEXT ...] [--quick] [--list] [--plant NAME]

``--only`` takes the faults whose name contains one of the texts, ``--quick`` leaves out what `make test` leaves out,
``--plant`` spoils the store first (see ``plants.py``), to see the table turn red. Ends with exit status 1 when anything
is not as promised.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

catalogue = importlib.import_module("chaos.catalogue")
audit = importlib.import_module("chaos.audit")
lab = importlib.import_module("chaos.lab")
plants = importlib.import_module("chaos.plants")

ROW = "{:34} {:10} {:22} {:13} {:9} {}"


def main(arguments: list[str]) -> int:
    """Run and print; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--plant", choices=sorted(plants.PLANTS))
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        parser.error("limits, signals and rights are set as Linux has them; this is another system")
    chosen = [
        fault
        for fault in catalogue.FAULTS
        if any(text in fault.id for text in options.only) and not (options.quick and fault.slow)
    ]
    if options.list:
        for fault in chosen:
            sys.stdout.write(f"{fault.id:34} {fault.phase:8} {fault.does}\n")
        return 0
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        template = lab.make_template(Path(folder))
        if options.plant:
            for place, name, value in plants.PLANTS[options.plant]:
                setattr(place, name, value)
        return table(chosen, Path(folder), template, thorough=not options.quick)


def table(faults: list[audit.Fault], folder: Path, template: Path, *, thorough: bool) -> int:
    """Print a row for each fault as soon as it is over; 1 if any was not as promised."""
    begun = time.monotonic()
    red = []
    say(ROW.format("fault", "told", "result", "progress", "left over", "verdict"))
    phase = ""
    for fault in faults:
        if fault.phase != phase:
            phase = fault.phase
            say(f"-- {phase}")
        place = folder / fault.id
        place.mkdir()
        seen, wrong = audit.judged(fault, place, template, thorough=thorough)
        if wrong:
            red.append(fault.id)
        ending = f"as promised{f' ({seen.note})' if seen.note else ''}" if not wrong else f"WRONG: {fault.does}"
        say(ROW.format(fault.id, seen.state, seen.result, seen.progress[:13] or "-", seen.left, ending).rstrip())
        for line in wrong:
            say(f"       {line}")
    seconds = time.monotonic() - begun
    say(f"{len(faults)} faults, {len(faults) - len(red)} as promised, {len(red)} not, in {seconds:.0f} s")
    return 1 if red or not faults else 0


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
