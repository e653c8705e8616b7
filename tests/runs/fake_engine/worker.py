"""An engine of misbehaving jobs, run by the real worker entry."""

from fastvideo_port.parity import worker as real

JOBS = {
    "add": "jobs:add",
    "raises": "jobs:raises",
    "refuses": "jobs:refuses",
    "kills_itself": "jobs:kills_itself",
    "segfaults": "jobs:segfaults",
    "sys_exit": "jobs:sys_exit",
    "os_exit": "jobs:os_exit",
    "hangs": "jobs:hangs",
    "ignores_term": "jobs:ignores_term",
    "forks": "jobs:forks",
    "daemonizes": "jobs:daemonizes",
    "shouts": "jobs:shouts",
    "binary": "jobs:binary",
    "sleeps": "jobs:sleeps",
    "not_json": "jobs:not_json",
    "numbers": "jobs:numbers",
    "environment": "jobs:environment",
    "counts": "jobs:counts",
    "dies_after_result": "jobs:dies_after_result",
    "leaks": "jobs:leaks",
    "eats": "jobs:eats",
    "spoils": "jobs:spoils",
    "forges": "jobs:forges",
    "absent": "no_such_module:job",
}


def main(job: str, run_dir: str) -> None:
    real.main(job, run_dir, JOBS, __package__)
