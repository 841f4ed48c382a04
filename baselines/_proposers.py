"""Who can say where to try next, by name; a library is imported when its proposer is made."""

from baselines._ask_tell import Grid, Proposer, Random, Sobol
from baselines._ax import Ax
from baselines._botorch import Botorch
from baselines._optuna import CmaEs, Gp, Tpe

__all__ = ["PROPOSERS", "Grid", "Proposer", "Random", "Sobol"]

PROPOSERS: dict[str, type[Proposer]] = {
    "random": Random,
    "sobol": Sobol,
    "grid": Grid,
    "tpe": Tpe,
    "gp": Gp,
    "cma-es": CmaEs,
    "botorch": Botorch,
    "ax": Ax,
}
