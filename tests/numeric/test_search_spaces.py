"""Spaces of policies and recipes: what a point means, ranges, identity at zero, what trains."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from scipy import stats

import baselines
from baselines._ask_tell import Grid, Random
from baselines._policy_space import randaugment, separately
from baselines._recipe_space import joint, logarithmic, wide
from baselines._search import Training
from baselines._space import Candidate, Space, Values
from baselines._spaces import TABLES, Operations, SpaceName, space_of
from baselines.policies import RandAugment, RandAugmentConfig
from baselines.search import SearchBaseline, SearchConfig
from bench.augment import spaces
from bench.augment.policy import Batch, Policy
from bench.augment.population import Population
from bench.check import small_config
from bench.errors import ConfigError
from bench.plugins import Plugin, Selected, discover, select
from bench.rng import generator
from bench.stage import stage
from bench.train.heavy_ball import HeavyBall
from bench.train.learner import Learner
from bench.train.loops import training_step
from bench.train.prepare import Prepared
from bench.train.recipe import Recipe
from bench.train.session import Session
from bench.train.task import around, standard

Tensor = torch.Tensor
PLUGINS = discover([Path(baselines.__path__[0])])
OWN = {"rate": 0.05, "momentum": 0.9, "decay": 5e-4}  # the recipe's of the small task
OTHER = {"rate": 0.02, "momentum": 0.5, "decay": 3e-3}
DRAWS = 20_000


def session_of(small: Prepared, budget: float = 2.0) -> Session:
    selected = Selected(Plugin(SearchBaseline, Path(__file__), ""), SearchConfig(), "search", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def first_of(candidate: Candidate) -> Any:
    """The policy inside crop, flip and Cutout."""
    return candidate.policy.policies[0]  # type: ignore[attr-defined]


def none_of(space: Space) -> Values:
    return {dimension.name: 0.0 for dimension in space.dimensions}


def draws(space: Space, count: int = 400) -> dict[str, Tensor]:
    proposer = Random(space.dimensions, generator("proposals"))
    drawn = [space.values(proposer.ask()) for _ in range(count)]
    return {name: torch.tensor([values[name] for values in drawn]).double() for name in drawn[0]}


def uniform(values: Tensor, low: float, high: float) -> bool:
    inside = bool((values >= low).all() and (values <= high).all())
    return inside and stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def images(small: Prepared, policy: Policy, count: int = 200) -> tuple[Tensor, Tensor]:
    """Before and after."""
    task, index = small.task, torch.arange(count)
    batch = Batch(task.train.images[:count], task.train.labels[:count], index)
    draw = policy.sample(index, generator("draws"))
    return batch.images, policy.apply(batch, draw).images


# All of them


@pytest.mark.parametrize("name", get_args(SpaceName))
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_every_corner_is_a_training(small: Prepared, name: SpaceName, place: float) -> None:
    task = small.task
    space = space_of(name, task)
    values = space.values((place,) * len(space.dimensions))
    assert len(values) == len(space.dimensions)
    candidate = space.candidate(task, values)
    described = json.dumps(candidate.policy.describe(), allow_nan=False)
    assert described == json.dumps(space.candidate(task, values).policy.describe())
    assert space.deviations[0].startswith("searches ")
    assert space_of(name, task).dimensions[0].levels == space.dimensions[0].levels


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_operations_will_do(small: Prepared, name: SpaceName) -> None:
    for operations in get_args(Operations):
        space = space_of(name, operations=operations)
        values = space.values((0.5,) * len(space.dimensions))
        assert first_of(space.candidate(small.task, values)).space.name == operations


# RandAugment


def test_randaugments_points(small: Prepared) -> None:
    space = randaugment()
    assert space.size == 93
    drawn = draws(space, 93)
    pairs = set(zip(drawn["n"].tolist(), drawn["m"].tolist(), strict=True))
    assert pairs == set(product((1, 2, 3), range(31)))
    ours = space.candidate(small.task, {"n": 2, "m": 9}).policy.describe()
    row = RandAugment(RandAugmentConfig(n=2, m=9)).policy(small.task).describe()
    assert ours == row, "the same policy as the row with these numbers"
    ours = first_of(randaugment("pba").candidate(small.task, {"n": 3, "m": 15})).numbers()
    assert (ours["ops"], ours["levels"]) == (3, 0.5 * spaces.space("pba").top)


def test_a_grid_takes_five_values_of_m() -> None:
    config = SearchConfig(space="randaugment", proposer="grid")
    space = config.searched()
    grid = Grid(space.dimensions, generator("unused"))
    points = [tuple(space.values(grid.ask()).values()) for _ in range(config.count())]
    assert points == list(product((1, 2, 3), (5, 10, 15, 20, 25)))
    assert SearchConfig(space="randaugment").count() == 93
    assert SearchConfig(space="randaugment", trials=20).count() == 20


# A probability and a magnitude of each operation


def test_the_vector_is_the_policys(small: Prepared) -> None:
    space, table = separately(), spaces.space("pba")
    assert [dimension.name for dimension in space.dimensions] == [
        *(f"probability_{entry.label}" for entry in table.entries),
        *(f"magnitude_{entry.label}" for entry in table.entries if entry.low != entry.high),
    ]
    assert len(space.dimensions) == 15 + 12
    values = {dimension.name: i / 26 for i, dimension in enumerate(space.dimensions)}
    policy = first_of(space.candidate(small.task, values))
    assert isinstance(policy, Population)
    probabilities, levels = policy.values()
    for row, entry in enumerate(table.entries):
        assert probabilities[row] == pytest.approx(values[f"probability_{entry.label}"], abs=1e-15)
        level = values.get(f"magnitude_{entry.label}", math.nan)
        assert levels[row] == pytest.approx(level, abs=1e-15, nan_ok=True)
    assert probabilities[0] == 0, "exactly"
    assert levels[table.index("cutout")] == 1, "exactly"
    assert all(uniform(column, 0, 1) for column in draws(space).values())


def test_an_operation_comes_as_often_and_as_strong_as_its_values_say(small: Prepared) -> None:
    space, table = separately(), spaces.space("pba")
    values = none_of(space) | {"probability_rotate": 0.4, "magnitude_rotate": 0.25}
    policy = first_of(space.candidate(small.task, values))
    draw = policy.sample(torch.zeros(DRAWS, dtype=torch.int64), generator("draws"))
    assert set(draw.op[draw.gate].tolist()) == {table.index("rotate")}
    assert draw.level[draw.gate] == pytest.approx(0.25 * table.top)
    share = 0.8 * 0.4  # one image in five is left alone, whatever the probabilities
    assert draw.gate.sum() / DRAWS == pytest.approx(
        share, abs=4 * math.sqrt(share * (1 - share) / DRAWS)
    )


def test_no_probability_is_the_identity(small: Prepared) -> None:
    space = separately()
    strong = {name: float(name.startswith("magnitude")) for name in none_of(space)}
    before, after = images(small, first_of(space.candidate(small.task, strong)))
    assert torch.equal(before, after)


def test_no_magnitude_is_the_identity(small: Prepared) -> None:
    space = separately("pba-centred")
    often = none_of(space) | {"probability_rotate": 1.0, "probability_brightness": 1.0}
    before, after = images(small, first_of(space.candidate(small.task, often)))
    assert torch.equal(before, after)
    strong = often | {"magnitude_rotate": 1.0, "magnitude_brightness": 1.0}
    before, after = images(small, first_of(space.candidate(small.task, strong)))
    changed = (before != after).flatten(1).any(1).double().mean()
    assert 0.6 < changed < 0.9  # 4 in 5 get one or two


# The recipe


def trained(small: Prepared, candidate: Candidate, steps: int = 6) -> tuple[Learner, list[Any]]:
    """A learner after some steps as a trial, and the settings that the optimiser had in each."""
    session, found = session_of(small), []
    training = Training(session, session.learner(), session.batches("train"), candidate)
    for done in range(steps):
        training.step(done / steps)
        (group,) = training.learner.optimiser.param_groups
        found.append((group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]))
    return training.learner, found


def plain(small: Prepared, policy: Policy, recipe: Recipe | None = None, steps: int = 6) -> str:
    """Digest of a learner trained with a recipe of its own, without any search."""
    session = session_of(small)
    learner, batches = session.learner(recipe=recipe), session.batches("train")
    for done in range(steps):
        training_step(session, learner, policy, batches, done / steps)
    return learner.digest()


def test_useful_ranges_of_the_recipe() -> None:
    drawn = draws(logarithmic())
    assert list(drawn) == ["rate", "momentum", "decay"]
    assert uniform(drawn["rate"].log10(), -3, 0)
    assert uniform((1 - drawn["momentum"]).log10(), -2, 0)
    assert uniform(drawn["decay"].log10(), -5, -2)
    places = [logarithmic().values((place,) * 3) for place in (0.0, 1.0)]
    assert [values["momentum"] for values in places] == pytest.approx([0.99, 0])
    assert places[1]["momentum"] == 0, "exactly: no recipe takes less"


def test_the_recipes_own_numbers_are_the_standard_training(small: Prepared) -> None:
    task = small.task
    assert (task.recipe.lr, task.recipe.momentum, task.recipe.weight_decay) == tuple(OWN.values())
    learner, _ = trained(small, logarithmic().candidate(task, OWN))
    assert learner.digest() == plain(small, standard(task)), "to the bit"
    learner, _ = trained(small, logarithmic().candidate(task, OTHER))
    assert learner.digest() != plain(small, standard(task))


def test_a_points_numbers_are_used_in_every_step(small: Prepared) -> None:
    task = small.task
    learner, settings = trained(small, logarithmic().candidate(task, OTHER))
    rates = [0.02 * 0.5 * (1 + math.cos(math.pi * done / 6)) for done in range(6)]
    assert settings == [(pytest.approx(rate), 0.5, 3e-3, True) for rate in rates]
    recipe = Recipe(steps=60, batch_size=32, lr=0.02, momentum=0.5, weight_decay=3e-3)
    assert learner.digest() == plain(small, standard(task), recipe)
    _, settings = trained(small, logarithmic().candidate(task, OTHER | {"momentum": 0.0}), 1)
    assert settings == [(0.02, 0.0, 3e-3, False)]


def test_the_wide_ranges_are_those_of_fds_under_the_recipes_schedule(small: Prepared) -> None:
    drawn = draws(wide())
    for name, low in {"rate": -1, "momentum": -1.5, "decay": -4e-3}.items():
        assert uniform(drawn[name], low, -low)
    recipe = small.task.recipe.model_copy(update={"warmup": 0.2})
    task = replace(small.task, recipe=recipe)
    values = {"rate": -0.8, "momentum": -1.2, "decay": -1e-3}
    setting = wide().candidate(task, values).setting
    assert setting is not None
    shape = {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.6: 0.5, 1.0: 0.0}
    for progress, share in shape.items():
        assert setting(progress) == (pytest.approx(-0.8 * share), -1.2, -1e-3)


def test_heavy_ball_takes_the_wide_settings(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[tuple[float, ...]] = []
    step = HeavyBall.step

    def spied(ball: HeavyBall, *setting: float) -> None:
        settings.append(setting)
        step(ball, *setting)

    monkeypatch.setattr(HeavyBall, "step", spied)
    candidate = wide().candidate(small.task, {"rate": -0.01, "momentum": -0.5, "decay": -2e-3})
    session = session_of(small)
    training = Training(session, session.learner(), session.batches("train"), candidate)
    assert training.candidate.setting is not None
    for done in range(4):
        training.step(done / 4)
    shape = [0.5 * (1 + math.cos(math.pi * done / 4)) for done in range(4)]
    assert settings == [(pytest.approx(-0.01 * share), -0.5, -2e-3) for share in shape]


def test_joint_has_both(small: Prepared) -> None:
    task, space = small.task, joint()
    assert [dimension.name for dimension in space.dimensions] == [
        *("n", "m"),
        *("rate", "momentum", "decay"),
    ]
    candidate = space.candidate(task, {"n": 1, "m": 20} | OTHER)
    policy = randaugment().candidate(task, {"n": 1, "m": 20}).policy
    assert candidate.policy.describe() == policy.describe()
    learner, settings = trained(small, candidate)
    assert settings[0] == (0.02, 0.5, 3e-3, True)
    recipe = Recipe(steps=60, batch_size=32, lr=0.02, momentum=0.5, weight_decay=3e-3)
    assert learner.digest() == plain(small, policy, recipe)
    row = around(task, first_of(candidate))
    assert row.describe() == policy.describe()


# A search over them


@pytest.mark.parametrize("name", ["policy", "recipe-wide", "joint"])
def test_a_search_ends_under_the_chosen_point(small: Prepared, name: SpaceName) -> None:
    session = session_of(small)
    method = SearchBaseline(SearchConfig(space=name, trials=2))
    fitted = method.run(session)
    trace, space = session.trace.export(), space_of(name, small.task)
    for series in ("trial_error", "trial_cost", "trial_bill", "best_error"):
        assert len(trace[series]["value"]) == 2
        assert trace[series]["whole"] is True
    chosen = {d.name: trace[f"chosen_{d.name}"]["value"][0] for d in space.dimensions}
    errors = [math.inf if e is None else e for e in trace["trial_error"]["value"]]
    best = errors.index(min(errors))
    assert chosen == {d: trace[f"trial_{d}"]["value"][best] for d in chosen}
    assert fitted.policy.describe() == space.candidate(small.task, chosen).policy.describe()
    if name == "joint":
        (group,) = fitted.learner.optimiser.param_groups
        assert group["momentum"] == chosen["momentum"]
        assert fitted.learner.recipe.lr == chosen["rate"]
    bills = trace["trial_bill"]["value"]
    costs = trace["trial_cost"]["value"]
    assert bills == pytest.approx([costs[0], sum(costs)])
    assert fitted.deviations[0] == space.deviations[0]
    assert not any("the paper about 100" in said for said in fitted.deviations)
    assert (method.policy(small.task) is None) == (name in TABLES)


# Options


def test_one_share_gives_the_other(small: Prepared) -> None:
    plans = []
    for options in (
        {"trial_fraction": 0.4},
        {"final_fraction": 0.6},
        {"trial_fraction": 0.4, "final_fraction": 0.6},
    ):
        config = SearchConfig(trials=4, **options)
        assert config.last == pytest.approx(0.6)
        assert SearchBaseline(config).minimum(small.task) == pytest.approx(10)
        session = session_of(small)
        SearchBaseline(config.model_copy(update={"rates": 1, "trials": 2})).run(session)
        plans.append(session.plans)
    assert plans[0] == plans[1] == plans[2]
    assert SearchConfig().last is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "trial_fraction=0.5,final_fraction=0.4",
            "trial_fraction=0.5 and final_fraction=0.4 do not add up to 1: give one of them",
        ),
        ("operations=pba", "operations=pba: space=optimiser-wide has no operations"),
        ("operations=pba,space=recipe-log", "space=recipe-log has no operations"),
        ("operations=ohl,space=policy", "operations: 'ohl'"),
        ("space=joint,rates=3", "space=joint has no windows"),
        (
            "space=policy,proposer=grid",
            "it can search optimiser-steps, regularisers-grid, randaug",
        ),
        ("space=randaugment,trials=94", "93 points, and proposer=random tries none twice"),
        ("space=randaugment,proposer=grid,trials=9", "each of its 15 points once"),
        ("trial_fraction=1", "trial_fraction: '1'"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(options: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(PLUGINS, f"search[{options}]")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
