"""The bill of every method against one FLOP counter around its whole run.

    python benchmarks/bill.py

Each method trains on the distorted digits at 2 RT, uncompiled; the counter sees everything that
torch dispatches, the bill only what metered blocks were charged (and the accounts of rehearsals
and of the harness's own evaluations).  Figure: `bill_error`, the largest relative error over the
methods.
"""

from pathlib import Path

import torch

import baselines
import methods
from bench.check import small_config, small_task, trial
from bench.plugins import discover, select


def main() -> None:
    """Prints a line a method, then the figure."""
    torch.set_num_threads(1)
    plugins = discover([Path(package.__path__[0]) for package in (methods, baselines)])
    prepared, errors = small_task(), []
    for name in plugins:
        selected = select(plugins, name)
        outcome = trial(selected, prepared, small_config(selected))
        errors.append(outcome.bill_error)
        print(f"{name}: billed {outcome.recorded:,} FLOPs, counted {outcome.counted:,}")
    print(f"figure bill_error {max(errors):.6f} relative")


if __name__ == "__main__":
    main()
