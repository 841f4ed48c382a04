"""Policies over a space: pure sampling, shapes, ranges, frequencies, descriptions."""

import json
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.autoaugment import POLICIES, autoaugment
from bench.augment.choice import (
    Described,
    SubPolicies,
    Uniform,
    distinct,
    randaugment,
    trivialaugment,
    uniformaugment,
)
from bench.augment.engine import Fill
from bench.augment.learnable import Categorical, Gated, Learnable, OpsAndLevels, pairs
from bench.augment.policy import Batch
from bench.augment.population import Population, Schedule
from bench.augment.space import Draw
from bench.augment.spaces import SPACES, space
from bench.errors import ConfigError
from tests.numeric.small_policies import discrete, effect, numbers

Tensor = torch.Tensor
GREY = Fill((10, 20, 30), (125, 123, 114))
quick = settings(max_examples=25, deadline=None)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policies() -> dict[str, Described]:
    """One of each kind, on the papers' spaces."""
    return {
        "randaugment": randaugment(space("randaugment"), 3, 9, GREY),
        "uniformaugment": uniformaugment(space("uniformaugment"), GREY),
        "uniformaugment-gar": uniformaugment(space("wide-long"), gar=True),
        "trivialaugment": trivialaugment(space("trivialaugment-wide")),
        "autodo-unlearned": Uniform(space("autodo"), ops=1, levels="continuous", most=15),
        "autoaugment": autoaugment("svhn", GREY),
        "ohl": Categorical(
            space("ohl"), elements=pairs(space("ohl")), weigh="sigmoid", logits=numbers(1296)
        ),
        "gar": OpsAndLevels(
            space("wide-long"), counts=numbers(4), keeps=numbers(19), levels=numbers(19, 31)
        ),
        "pba": Gated(space("pba"), GREY, probabilities=numbers(30), magnitudes=numbers(30)),
        "hba": Population(space("pba"), GREY, sigma=0.7, entries=numbers(54)),
        "hba-schedule": Schedule(space("pba-centred"), knots=numbers(4, 54)),
    }


def same(one: Draw, other: Draw) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


@pytest.mark.parametrize("name", policies())
def test_shapes_types_and_ranges(name: str) -> None:
    policy, index = policies()[name], torch.arange(100) % 50
    state = torch.get_rng_state()
    draw = policy.sample(index, rng())
    assert torch.equal(torch.get_rng_state(), state)
    shape = draw.op.shape
    assert len(draw) == shape[0] == 100
    assert (draw.op.dtype, draw.level.dtype) == (torch.int64, torch.float64)
    assert (draw.gate.dtype, draw.sign.dtype) == (torch.bool, torch.bool)
    assert (draw.place.dtype, draw.place.shape) == (torch.float64, (*shape, 2))
    assert draw.level.shape == draw.gate.shape == draw.sign.shape == shape
    assert ((draw.op >= 0) & (draw.op < len(policy.space))).all()
    assert ((draw.place >= 0) & (draw.place < 1)).all()
    assert ((draw.level >= 0) & (draw.level <= policy.space.top)).all()
    assert not any(getattr(draw, f.name).requires_grad for f in fields(draw))
    log_prob = policy.log_prob(draw)
    assert (log_prob.dtype, log_prob.shape) == (torch.float64, (100,))
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("name", policies())
def test_it_is_applied_and_explained(name: str) -> None:
    policy, index = policies()[name], torch.arange(40)
    images = torch.randint(256, (40, 3, 8, 8), generator=rng(), dtype=torch.uint8)
    draw = policy.sample(index, rng(1))
    before = images.clone()
    found = policy.apply(Batch(images, index, index), draw).images
    assert torch.equal(images, before)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    words = [policy.explain(draw, row) for row in range(40)]
    assert [len(said) for said in words] == draw.gate.sum(1).tolist()
    labels = {entry.label for entry in policy.space.entries}
    assert {" ".join(w.split(" ")[:1]) for said in words for w in said} <= {
        label.split(" ")[0] for label in labels
    }


@pytest.mark.parametrize("name", policies())
@quick
@given(seed=st.integers(0, 2**40), count=st.integers(0, 70))
def test_sampling_is_a_pure_function_of_the_generator(name: str, seed: int, count: int) -> None:
    policy, index = policies()[name], torch.arange(count) % 50
    generators = rng(seed), rng(seed)
    draws = [policy.sample(index, generator) for generator in generators]
    assert same(*draws)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    if count > 20:
        assert not same(draws[0], policy.sample(index, generators[0]))


@pytest.mark.parametrize(
    "name", [name for name, p in policies().items() if isinstance(p, Learnable)]
)
def test_parameters_do_not_change_how_much_is_drawn(name: str) -> None:
    policy, index = policies()[name], torch.arange(30)
    assert isinstance(policy, Learnable)
    states = []
    for scale in (0.0, 1.0, 30.0, -30.0):
        for number, parameter in enumerate(policy.parameters()):
            parameter.copy_(scale * numbers(*parameter.shape, seed=number))
        generator = rng(5)
        policy.sample(index, generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_replacement_and_levels_do_not_change_how_much_is_drawn() -> None:
    states = []
    for replacement in (True, False):
        for levels in ("continuous", "discrete", 3.0):
            for keep in (0.0, 0.5, 1.0):
                generator = rng()
                policy = Uniform(
                    space("wide-long"), replacement=replacement, levels=levels, keep=keep
                )
                policy.sample(torch.arange(9), generator)
                states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("name", discrete())
def test_frequencies_agree_with_log_probabilities(name: str) -> None:
    policy, count = discrete()[name], 15_000
    draw = policy.sample(torch.arange(count), rng(11))
    probability = policy.log_prob(draw).detach().exp().tolist()
    seen: dict[tuple[object, ...], int] = {}
    expected: dict[tuple[object, ...], float] = {}
    for each, p in zip(effect(draw, policy.space), probability, strict=True):
        seen[each] = seen.get(each, 0) + 1
        assert abs(expected.setdefault(each, p) - p) < 1e-12
    assert sum(expected.values()) <= 1 + 1e-9
    away = [
        (seen[each] - count * p) ** 2 / (count * p * (1 - p))
        for each, p in expected.items()
        if count * p > 5 and p < 1
    ]
    # Squares of nearly standard normal numbers.
    assert sum(away) / max(1, len(away)) < 1 + 6 * (2 / max(1, len(away))) ** 0.5
    assert max(away, default=0.0) < 36


@pytest.mark.parametrize("name", policies())
def test_images_of_a_batch_have_draws_of_their_own(name: str) -> None:
    """Neighbours agree no more often than chance has it."""
    policy = policies()[name]
    draw = policy.sample(torch.zeros(20_000, dtype=torch.int64), rng(3))
    for column in (draw.sign.double(), draw.gate.double(), draw.place[..., 0], draw.level):
        centred = column - column.mean(0)
        spread = column.std(0, correction=0)
        some = spread > 0
        neighbours = (centred[1:] * centred[:-1]).mean(0)[some] / spread[some] ** 2
        assert float(neighbours.abs().max() if some.any() else 0.0) < 0.04


@quick
@given(
    seed=st.integers(0, 2**40),
    many=st.integers(1, 20),
    slots=st.integers(1, 20),
    count=st.integers(0, 30),
)
def test_distinct_draws_differ(seed: int, many: int, slots: int, count: int) -> None:
    slots = min(slots, many)
    uniform = torch.rand(count, slots, generator=rng(seed), dtype=torch.float64)
    found = distinct(uniform, many)
    assert found.shape == (count, slots)
    assert ((found >= 0) & (found < many)).all()
    assert all(len(set(row)) == slots for row in found.tolist())


def test_distinct_draws_are_uniform_over_ordered_choices() -> None:
    """A grid of the unit cube falls evenly on the 5 · 4 · 3 choices."""
    axis = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    found = distinct(torch.cartesian_prod(axis, axis, axis), 5)
    counts = (found * torch.tensor([25, 5, 1])).sum(1).bincount()
    assert counts[counts > 0].tolist() == [60**3 // 60] * 60


@pytest.mark.parametrize("name", policies())
def test_a_description_is_json_and_rebuilds_the_policy(name: str) -> None:
    policy, index = policies()[name], torch.arange(50)
    description = json.loads(json.dumps(policy.describe()))
    assert description == policy.describe()
    assert description["policy"] == policy.kind
    again = type(policy).rebuild(description)
    assert again.describe() == policy.describe()
    assert again.fill == policy.fill
    draw = policy.sample(index, rng(4))
    assert same(draw, again.sample(index, rng(4)))
    assert torch.equal(policy.log_prob(draw), again.log_prob(draw))
    assert policy.describe() == policies()[name].describe()


def test_kinds_have_names_of_their_own() -> None:
    kinds = [Uniform, SubPolicies, Categorical, OpsAndLevels, Gated, Population, Schedule]
    assert len({kind.kind for kind in kinds}) == len(kinds)


def test_parameters_are_leaves_of_the_policys_own() -> None:
    given_ = torch.zeros(9, dtype=torch.float32, requires_grad=True)
    policy = Categorical(space("autodo"), elements=[[k % 6] for k in range(9)], logits=given_)
    (leaf,) = policy.parameters()
    assert leaf is policy.logits
    assert leaf.is_leaf
    assert (leaf.dtype, leaf.requires_grad) == (torch.float64, False)
    leaf.requires_grad_()
    draw = policy.sample(torch.arange(20), rng())
    policy.log_prob(draw).sum().backward()
    assert leaf.grad is not None
    assert given_.grad is None
    with torch.no_grad():
        leaf.add_(1)
    assert float(given_.detach().max()) == 0


def test_uniformaugment_does_each_operation_half_of_the_time() -> None:
    """It draws p, then a coin with it: together that is one half."""
    draw = uniformaugment(space("uniformaugment")).sample(torch.arange(50_000), rng())
    assert float(draw.gate.double().mean()) == pytest.approx(0.5, abs=0.01)
    together = draw.gate.double().prod(1).mean()
    assert float(together) == pytest.approx(0.25, abs=0.01)  # a p for each operation, not for both


@pytest.mark.parametrize("name", ["ohl", "gar", "pba", "hba"])
def test_a_learned_state_can_be_taken_and_put_back(name: str) -> None:
    policy = policies()[name]
    assert isinstance(policy, Learnable)
    before = policy.describe()
    state = policy.state_dict()
    for leaf in policy.parameters():
        leaf.add_(1.0)
    assert policy.describe() != before
    policy.load_state_dict(state)
    assert policy.describe() == before


@pytest.mark.parametrize("name", SPACES)
def test_every_space_can_be_drawn_from(name: str) -> None:
    images = torch.randint(256, (60, 3, 9, 9), generator=rng(), dtype=torch.uint8)
    index = torch.arange(60)
    policy = Uniform(space(name), levels="continuous")
    found = policy.apply(Batch(images, index, index), policy.sample(index, rng(1)))
    assert (found.images != images).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": 0}, "ops=0"),
        ({"ops": 7, "replacement": False}, "ops=7: the space has 6 operations"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"levels": 31.0}, "levels=31.0"),
        ({"levels": "discrete", "most": 31.0}, "most=31.0"),
        ({"levels": "discrete", "most": 0.0}, "most=0.0"),
    ],
)
def test_numbers_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Uniform(space("autodo"), **options)


def test_an_unknown_autoaugment_policy_is_one_sentence() -> None:
    assert sorted(POLICIES) == ["cifar10", "imagenet", "svhn"]
    with pytest.raises(ConfigError, match="'cifar100': there are cifar10, svhn, imagenet"):
        autoaugment("cifar100")
