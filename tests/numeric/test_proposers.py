"""Proposers: where they propose, what they learn, what they follow from, what they disturb."""

import json
import math
import random
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm, qmc

from baselines._ask_tell import Sequential
from baselines._botorch import Botorch, start_of
from baselines._library import isolated
from baselines._proposers import PROPOSERS, Proposer
from baselines._space import Dimension, Point, one_of, size, uniform
from bench.rng import generator
from tests.conftest import ROOT

# Ax takes many seconds to import, and some for each proposal of its model.
AX = pytest.param("ax", marks=pytest.mark.slow)
LIBRARIES = ["tpe", "gp", "cma-es", "botorch", AX]
LEARNING = {"tpe": 13, "gp": 12, "cma-es": 16, "botorch": 8, "ax": 8}  # trials: with a model
WALKS = {"random": 8, "sobol": 8, **LEARNING}

Errors = Callable[[int, Point], float | None]


def sides(*levels: int | None) -> list[Dimension]:
    return [Dimension(f"p{i}", uniform(0, 1), many) for i, many in enumerate(levels)]


def proposer_of(name: str, *levels: int | None, seed: int = 0) -> Proposer:
    return PROPOSERS[name](sides(*levels), generator("proposals", seed))


def bowl(trial: int, point: Point) -> float:
    """Least where the first parameter is 0.3; the others matter a tenth as much."""
    first, *others = [(place - 0.3) ** 2 for place in point]
    return first + 0.1 * sum(others)


def patchy(trial: int, point: Point) -> float | None:
    """A bowl of which every third trial fails."""
    return None if trial % 3 == 1 else bowl(trial, point)


def walk(proposer: Proposer, trials: int, errors: Errors = bowl) -> list[Point]:
    points = []
    for trial in range(trials):
        points.append(proposer.ask())
        proposer.tell(points[-1], errors(trial, points[-1]))
    return points


def mixed(name: str) -> list[Point]:
    """A walk over levels and continuous parameters, with failures."""
    return walk(proposer_of(name, 5, None, 2), WALKS[name], patchy)


def global_state() -> list[Any]:
    numbers = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    threads = torch.get_num_threads(), torch.get_default_dtype()
    return [*numbers, *threads, list(warnings.filters)]


@pytest.fixture(scope="module")
def walks() -> dict[str, list[Point]]:
    return {}


def walked(walks: dict[str, list[Point]], name: str) -> list[Point]:
    if name not in walks:
        walks[name] = mixed(name)
    return walks[name]


# Where they propose


@pytest.mark.parametrize("name", ["random", "sobol", *LIBRARIES])
def test_points_lie_in_the_cube_and_in_the_middles_of_levels(
    walks: dict[str, list[Point]], name: str
) -> None:
    points = walked(walks, name)
    for point in points:
        assert all(0 <= place <= 1 and type(place) is float for place in point)
        assert tuple(map(Dimension.centre, sides(5, None, 2), point)) == point
    assert all(len(set(column)) > 1 for column in zip(*points, strict=True))


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_finitely_many_points_come_once_each(name: str) -> None:
    proposer = proposer_of(name, 3, 5, 2)
    points = walk(proposer, 30)
    assert len(set(points)) == 30
    assert isinstance(proposer, Sequential)
    assert proposer.exhausted
    with pytest.raises(ValueError, match="all 30 points have been proposed"):
        proposer.ask()


def test_sobol_points_are_spread_more_evenly_than_random_ones() -> None:
    for seed in range(5):
        uneven = {
            name: qmc.discrepancy(walk(proposer_of(name, None, None, None, seed=seed), 32))
            for name in ("sobol", "random")
        }
        assert uneven["sobol"] < 0.5 * uneven["random"]
    assert walk(proposer_of("sobol", None), 3) != walk(proposer_of("sobol", None, seed=1), 3)


def test_a_grid_refuses_infinitely_many_points() -> None:
    why = "a grid goes over finitely many points"
    assert PROPOSERS["grid"].refuses(sides(3, None)) == why
    assert PROPOSERS["grid"].refuses(sides(3, 2)) is None
    with pytest.raises(ValueError, match=why):
        proposer_of("grid", 3, None)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_parameter_with_one_value_stays_there(name: str) -> None:
    points = walk(proposer_of(name, 1, None), 7)
    assert {point[0] for point in points} == {0.5}
    assert len({point[1] for point in points}) > 1
    assert "nothing to search" in (PROPOSERS[name].refuses(sides(1, 1)) or "")
    assert PROPOSERS[name].refuses(sides(1, None)) is None


def test_the_libraries_are_imported_when_they_are_needed() -> None:
    code = (
        "import sys, baselines.search; "
        "print([name for name in ('optuna', 'botorch', 'ax') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# What they learn


@pytest.mark.parametrize(
    ("name", "trials", "seeds"),
    [
        ("tpe", 40, 4),
        ("cma-es", 60, 4),
        ("gp", 14, 2),
        ("botorch", 9, 2),
        pytest.param("ax", 10, 2, marks=pytest.mark.slow),
    ],
)
def test_they_come_closer_to_the_optimum_than_random(name: str, trials: int, seeds: int) -> None:
    def least(name: str, seed: int) -> float:
        points = walk(proposer_of(name, None, None, seed=seed), trials)
        return min(bowl(0, point) for point in points)

    chance = statistics.median(least("random", seed) for seed in range(50))
    assert statistics.median(least(name, seed) for seed in range(seeds)) < 0.5 * chance


@pytest.mark.parametrize("name", LIBRARIES)
def test_they_go_where_the_error_is_less(name: str) -> None:
    """Told the opposite, they go elsewhere."""
    trials = LEARNING[name] + 2

    def later(sign: float) -> float:
        """Mean of the second half, of which the model has proposed some."""
        points = walk(proposer_of(name, None), trials, lambda trial, point: 0.5 + sign * point[0])
        return statistics.fmean(point[0] for point in points[trials // 2 :])

    assert later(0.4) < later(-0.4) - 0.1


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("error", [None, 0.9])
def test_trials_that_all_fail_or_are_all_equal_teach_nothing(
    name: str, error: float | None
) -> None:
    proposer = proposer_of(name, 4, 3)
    points = walk(proposer, min(LEARNING[name], 12), lambda trial, point: error)
    assert len(set(points)) > 2
    assert proposer.importance() is None


def test_botorch_goes_on_when_a_space_is_used_up() -> None:
    points = walk(proposer_of("botorch", 2, 2), 9, lambda trial, point: None)
    assert size(sides(2, 2)) == 4 == len(set(points[:4])) == len(set(points[4:8]))


@pytest.mark.slow
def test_ax_says_when_a_space_is_used_up() -> None:
    proposer = proposer_of("ax", 3)
    assert len(set(walk(proposer, 3))) == 3
    with pytest.raises(ValueError, match="Ax has proposed every point"):
        proposer.ask()


@pytest.mark.parametrize("name", LIBRARIES)
def test_only_the_point_that_was_asked_for_can_be_told(name: str) -> None:
    proposer = proposer_of(name, None)
    with pytest.raises(ValueError, match="not the point that was asked for"):
        proposer.tell((0.5,), 0.1)
    point = proposer.ask()
    with pytest.raises(ValueError, match="not the point that was asked for"):
        proposer.tell((point[0] / 2,), 0.1)
    proposer.tell(point, 0.1)


# BoTorch's model


def test_a_failed_trial_counts_as_the_worst_so_far() -> None:
    proposer = proposer_of("botorch", None)
    assert isinstance(proposer, Botorch)
    walk(proposer, 4, lambda trial, point: [None, 0.3, 0.7, None][trial])
    points, values = proposer._data() or (None, None)
    assert points is not None
    assert values is not None
    assert (-values).flatten().tolist() == [0.7, 0.3, 0.7, 0.7]
    assert (points.shape, points.dtype, values.dtype) == ((4, 1), torch.float64, torch.float64)


def test_the_model_is_a_matern_process_of_standardised_errors() -> None:
    from gpytorch.kernels import MaternKernel

    from baselines._botorch import _fitted

    points = torch.rand(12, 2, dtype=torch.float64, generator=generator("points"))
    values = -100 * (points[:, :1] - 0.3) ** 2 + 7
    with isolated(0):
        model = _fitted(points, values)
        posterior = model.posterior(points)
    kernel = model.covar_module
    assert isinstance(kernel, MaternKernel)
    assert (kernel.nu, kernel.lengthscale.shape[-1]) == (2.5, 2)
    assert kernel.lengthscale.dtype is torch.float64
    assert model.train_targets.mean().item() == pytest.approx(0, abs=1e-12)
    assert model.train_targets.std().item() == pytest.approx(1)
    assert torch.allclose(posterior.mean, values, atol=1.0)


def test_the_next_point_has_the_greatest_expected_improvement() -> None:
    """By its closed form, over a grid."""
    from baselines._botorch import _best, _fitted

    points = torch.tensor([[0.0], [0.15], [0.4], [0.7], [0.9], [1.0]], dtype=torch.float64)
    values = -((points - 0.3) ** 2) + 0.05 * torch.sin(20 * points)
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    with isolated(0):
        model = _fitted(points, values)
        found = _best(model, values, torch.tensor([[0.0], [1.0]], dtype=torch.float64), {})
        posterior = model.posterior(grid)
    mean = posterior.mean.detach().flatten().numpy()
    deviation = posterior.variance.detach().sqrt().flatten().numpy()
    ahead = mean - values.max().item()
    improvement = ahead * norm.cdf(ahead / deviation) + deviation * norm.pdf(ahead / deviation)
    assert found.item() == pytest.approx(grid[improvement.argmax()].item(), abs=1e-3)


def test_the_model_starts_after_the_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [start_of(d) for d in (1, 2, 3, 9, 10, 66)] == [5, 5, 6, 18, 20, 20]
    asked = []
    monkeypatch.setattr("baselines._botorch._fitted", lambda *data: None)
    monkeypatch.setattr(
        "baselines._botorch._best", lambda *given: asked.append(given) or torch.tensor([0.25] * 3)
    )
    points = walk(proposer_of("botorch", None, None, 4), 8)
    assert len(asked) == 2
    assert points[6:] == [(0.25, 0.25, 0.375)] * 2
    _, values, bounds, levels = asked[0]
    assert values.shape == (6, 1)
    assert bounds.tolist() == [[0, 0, 0.125], [1, 1, 0.875]]
    assert levels == {2: [0.125, 0.375, 0.625, 0.875]}


# What they follow from, and what they disturb


@pytest.mark.parametrize("name", ["random", "sobol", *LIBRARIES])
def test_nothing_global_matters_or_moves(walks: dict[str, list[Point]], name: str) -> None:
    expected = walked(walks, name)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1234)
    before = global_state()
    assert mixed(name) == expected
    assert global_state() == before


OTHER = """
import json, sys
from tests.numeric.test_proposers import mixed
print(json.dumps([mixed(name) for name in sys.argv[1:]]))
"""


@pytest.mark.parametrize("names", [["tpe", "gp", "cma-es", "botorch"], AX])
def test_another_process_proposes_the_same(
    walks: dict[str, list[Point]], names: list[str] | str
) -> None:
    """What a killed search needs to go on."""
    chosen = [names] if isinstance(names, str) else names
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OTHER, *chosen],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = [[tuple(point) for point in points] for points in json.loads(done.stdout)]
    assert there == [walked(walks, name) for name in chosen]
    assert done.stderr == "", "logged"


@pytest.mark.parametrize("name", ["sobol", *LIBRARIES])
def test_another_seed_proposes_otherwise(walks: dict[str, list[Point]], name: str) -> None:
    proposer = proposer_of(name, 5, None, 2, seed=1)
    points = walk(proposer, 3)
    assert points != walked(walks, name)[:3]


def test_isolation_ends_after_an_error_and_hides_only_what_is_known() -> None:
    def broken() -> None:
        with isolated(1):
            draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
            raise KeyError

    before, draws = global_state(), []
    with pytest.raises(KeyError):
        broken()
    assert global_state() == before
    random.random()
    with pytest.raises(KeyError):
        broken()
    assert draws[0] == draws[1]
    for category in (UserWarning, FutureWarning):
        with pytest.warns(category, match="of ours"), isolated(1):
            warnings.warn("of ours", category, stacklevel=1)


# Importance


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_parameter_that_matters_has_the_larger_share(name: str) -> None:
    first = proposer_of(name, None, None)
    assert first.importance() is None
    assert first.measure is not None
    trials = {"tpe": 40, "cma-es": 40, "gp": 13, "botorch": 10, "ax": 8}[name]
    walk(first, trials, lambda trial, point: (point[0] - 0.3) ** 2)
    shares = first.importance()
    assert shares is not None
    assert list(shares) == ["p0", "p1"]
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert shares["p0"] > 0.6
    second = proposer_of(name, None, None)
    walk(second, trials, lambda trial, point: (point[0] - 0.3) ** 2)
    assert second.ask() == first.ask(), "asking for it changed the next proposal"


def test_those_without_a_model_know_no_importance() -> None:
    for name in ("random", "sobol"):
        proposer = proposer_of(name, None)
        walk(proposer, 3)
        assert (proposer.importance(), proposer.measure) == (None, None)


def test_every_name_is_a_proposers() -> None:
    from typing import get_args

    from baselines.search import SearchConfig

    assert get_args(SearchConfig.model_fields["proposer"].annotation) == tuple(PROPOSERS)
    assert one_of("n", (1, 2)).levels == 2
