"""Bayesian optimisation written on BoTorch: a Gaussian process and log expected improvement.

The first `start_of(d)` points are a scrambled Sobol sequence.  Then a Gaussian process with a
Matérn-5/2 kernel, one length-scale for each parameter, is fitted to the standardised errors of all
trials, and the next point maximises the logarithm of the expected improvement on the best of them.
Parameters with levels are searched by exchange, the others by L-BFGS-B, in turns.

A trial that failed counts as the worst that succeeded: left out, it would be proposed again, and a
penalty of its own would stretch the model's scale.  While fewer than two errors differ there is
nothing to fit, and the sequence goes on.

Source: Balandat et al., "BoTorch", 2020; Ament et al., "Unexpected improvements to expected
improvement", 2023; Hvarfner et al., "Vanilla Bayesian optimization performs great in high
dimensions", 2024 (the prior of the length-scales, BoTorch's default).
"""

from typing import TYPE_CHECKING, Any

import torch

from baselines._ask_tell import Sobol
from baselines._library import Library, scaled
from baselines._space import Point, size

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Tensor = torch.Tensor
RESTARTS, RAW = 8, 256  # of the acquisition's maximisation: from the best 8 of 256 Sobol points
FEW, MANY = 5, 20  # points of the start


def start_of(dimensions: int) -> int:
    """How many points come before the first model: twice the dimensions, from 5 to 20."""
    return min(max(FEW, 2 * dimensions), MANY)


class Botorch(Library):
    """Gaussian process, Matérn-5/2, log expected improvement."""

    measure = "inverse length-scales"

    def start(self, seed: int) -> None:
        """Imports the library, starts the sequence."""
        import botorch  # noqa: F401 - the first import is slow: here, not in the first proposal

        self._sequence = Sobol(self.dimensions, self.rng)
        self._told: list[tuple[Point, float | None]] = []

    def propose(self) -> tuple[Point, Point]:
        """The sequence's next point, or the one that promises most."""
        start = min(start_of(len(self.dimensions)), size(self.dimensions) or MANY)
        data = self._data() if len(self._told) >= start else None
        if data is None:
            if self._sequence.exhausted:  # nothing to fit, and every point has been tried
                self._sequence = Sobol(self.dimensions, self.rng)
            point = self._sequence.ask()
        else:
            places = _best(_fitted(*data), data[1], *self._box()).tolist()
            pairs = zip(self.dimensions, places, strict=True)
            point = tuple(dimension.centre(place) for dimension, place in pairs)
        return point, point

    def report(self, handle: Point, error: float | None) -> None:
        """Keeps it for the next model."""
        self._told.append((handle, error))

    def shares(self) -> list[float] | None:
        """The longer a parameter's length-scale, the less it matters."""
        data = self._data()
        if data is None:
            return None
        lengths = _fitted(*data).covar_module.lengthscale.detach().flatten()
        return scaled((1 / lengths).tolist())

    def _data(self) -> tuple[Tensor, Tensor] | None:
        """Points (n, d) and what is to be maximised (n, 1); None if it is the same everywhere."""
        errors = [error for _, error in self._told if error is not None]
        if len(set(errors)) < 2:
            return None
        worst = max(errors)
        points = torch.tensor([point for point, _ in self._told], dtype=torch.float64)
        told = [worst if error is None else error for _, error in self._told]
        return points, -torch.tensor(told, dtype=torch.float64)[:, None]

    def _box(self) -> tuple[Tensor, dict[int, list[float]]]:
        """Bounds (2, d), and where the sides with levels may be."""
        levels = {
            i: [(level + 0.5) / side.levels for level in range(side.levels)]
            for i, side in enumerate(self.dimensions)
            if side.levels is not None
        }
        whole = [0.0, 1.0]
        sides = [levels.get(i, whole) for i in range(len(self.dimensions))]
        ends = [(places[0], places[-1]) for places in sides]
        return torch.tensor(ends, dtype=torch.float64).T, levels


def _fitted(points: Tensor, values: Tensor) -> "SingleTaskGP":
    """The model with the hyperparameters of greatest posterior density."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from gpytorch.mlls import ExactMarginalLogLikelihood

    kernel = get_covar_module_with_dim_scaled_prior(points.shape[1], use_rbf_kernel=False)
    model = SingleTaskGP(points, values, covar_module=kernel, outcome_transform=Standardize(1))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def _best(
    model: "SingleTaskGP", values: Tensor, bounds: Tensor, levels: dict[int, list[float]]
) -> Tensor:
    """Where the acquisition is greatest; (d,)."""
    from botorch.acquisition import LogExpectedImprovement
    from botorch.optim import optimize_acqf, optimize_acqf_mixed_alternating

    acquisition = LogExpectedImprovement(model, best_f=values.max())
    options: dict[str, Any] = {"q": 1, "num_restarts": RESTARTS, "raw_samples": RAW}
    if levels:
        found, _ = optimize_acqf_mixed_alternating(
            acquisition, bounds, discrete_dims=levels, **options
        )
    else:
        found, _ = optimize_acqf(acquisition, bounds, **options)
    return found[0]
