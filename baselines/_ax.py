"""Ax with its default generation strategy: the centre, Sobol points, then its Bayesian optimiser.

The client is asked and told, and chooses the rest itself: its model starts after 5 trials that did
not fail, and only points that failed may come again.  A continuous parameter is a float in [0, 1];
one with levels is an integer.

Source: Olson et al., "Ax: a platform for adaptive experimentation", 2025.
"""

from copy import deepcopy

from baselines._library import Library, scaled
from baselines._space import Point

METRIC = "error"


class Ax(Library):
    """Ax's client."""

    measure = "total Sobol indices"
    repeats = False

    def start(self, seed: int) -> None:
        """A client that minimises."""
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        parameters = [
            RangeParameterConfig(name=f"x{i}", parameter_type="float", bounds=(0.0, 1.0))
            if side.levels is None
            else RangeParameterConfig(
                name=f"x{i}", parameter_type="int", bounds=(0, side.levels - 1)
            )
            for i, side in enumerate(self.dimensions)
            if side.levels != 1  # Ax has no ranges of one value
        ]
        self._errors: set[float] = set()
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(parameters=parameters, name="search")
        self._client.configure_optimization(objective=f"-{METRIC}")

    def propose(self) -> tuple[Point, int]:
        """The client's next trial."""
        from ax.exceptions.core import SearchSpaceExhausted

        try:
            ((index, found),) = self._client.get_next_trials(max_trials=1).items()
        except SearchSpaceExhausted as error:
            raise ValueError("Ax has proposed every point, and tries again none") from error
        point = []
        for i, side in enumerate(self.dimensions):
            place = float(found.get(f"x{i}", 0))
            point.append(place if side.levels is None else (place + 0.5) / side.levels)
        return tuple(point), index

    def report(self, handle: int, error: float | None) -> None:
        """Completes a trial, or marks it as failed."""
        if error is None:
            self._client.mark_trial_failed(trial_index=handle)
        else:
            self._errors.add(error)
            self._client.complete_trial(trial_index=handle, raw_data={METRIC: error})

    def shares(self) -> list[float] | None:
        """Of the last model; it stands after its trials, and the last of all is not among them."""
        from ax.analysis.plotly.sensitivity import SensitivityAnalysisPlot

        if len(self._errors) < 2:  # the model is flat, and its indices are rounding errors
            return None
        plot = SensitivityAnalysisPlot(order="total", top_k=None)
        # Ax fits and caches inside an analysis, and would propose otherwise afterwards.
        (card,) = deepcopy(self._client).compute_analyses([plot], display=False)
        if card.df.empty:  # there is no model yet
            return None
        found = dict(zip(card.df["parameter_name"], card.df["sensitivity"], strict=True))
        # Ax's sign says whether the error rises with the parameter.
        return scaled([abs(found.get(f"x{i}", 0.0)) for i in range(len(self.dimensions))])
