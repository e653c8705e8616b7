"""The numerical engine. Where to begin reading, from the process that runs a job down to the arithmetic.

Running
    `worker` runs one job in a process, `children` and `fork_server` start further ones; `sides` runs the two sides of a
    comparison, `reference_cache` keeps the official one. `adapter` and `context` are what the user's adapter meets.

Comparing one component (`component_job`)
    Each side in its process: `component_side` -> `component_official` and `component_port`, on `component_runner` and
    its base `runner`; `inputs`, `reference` and `sensitivity` are the runs around the plain ones. What a forward shows:
    `tracing` (every module's tensors, as the fingerprints of `sketch`), `observe` (dtypes, kernels).
    Then: `component_judge` -> `component_report`, on `component_results`: `output_judge`, `boundary_report`,
    `precision`, `perturbation_judge`, `dtypes`, `attention`. The bands are in `verdict`, the distances in `metrics`.

Ways to pass untested
    `honesty` judges what `conduct`, `audit`, `watched` and `seal` saw.

Where it is wrong
    `pairing` finds each module's counterpart, `boundaries` compares them, `blame` names one culprit. `diagnose` takes a
    failing port apart: `experiments` asks the processes of `lab`; `local_faults` (on `places`, `made_of`),
    `caller_or_callee` and `repairs` conclude. `trials` makes the usual mistakes (`mutations`, `substitutes`,
    `completions`) one by one.
    `locate_job` tries the causes in the order of `ladder`.

Weights
    `mapping_job` and `header_job` -> `prove`, on `arrivals` and `search`; `proof` is what comes of it.
    `convert_job` converts a checkpoint and proves it.

The other jobs
    `pipeline_job`, `scheduler_job`, `tokenizer_job`, `signature_job`, `ssim_job` and `example_job` (both on `frames`).
"""
