"""An engine of misbehaving jobs, run by the real worker entry."""

from fastvideo_port.parity import worker as real

JOBS = {
    "add": "jobs:add",
    "works": "jobs:works",
    "raises": "jobs:raises",
    "refuses": "jobs:refuses",
    "segfaults": "jobs:segfaults",
    "hangs": "jobs:hangs",
    "forks": "jobs:forks",
    "shouts": "jobs:shouts",
    "binary": "jobs:binary",
    "sleeps": "jobs:sleeps",
    "not_json": "jobs:not_json",
    "numbers": "jobs:numbers",
    "environment": "jobs:environment",
    "counts": "jobs:counts",
    "leaks": "jobs:leaks",
    "absent": "no_such_module:job",
}


def main(job: str, run_dir: str) -> None:
    real.main(job, run_dir, JOBS, __package__)
