"""Read by every interpreter that has this folder in its PYTHONPATH: sets the trap that the environment names."""

import os

import trap

if "CHAOS_CLOCK" in os.environ:
    trap.shift_clock(float(os.environ["CHAOS_CLOCK"]), os.environ["CHAOS_CLOCK_ONCE"])
if "CHAOS_TRAP" in os.environ:
    trap.arm(os.environ["CHAOS_TRAP"], os.environ["CHAOS_FIRED"])
