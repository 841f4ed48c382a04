"""GAR: rewards of a real pair of steps, the policy's gradient, placebos, and the planted test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.augment.learnable import OpsAndLevels
from bench.augment.spaces import space
from bench.check import small_config
from bench.errors import Diverged, PlanError
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import fill
from benchmarks import gar_planted
from methods import gar
from methods._alignment import ESTIMATORS
from methods._reinforce import Running, shuffled, standardised
from methods.gar import Gar, GarConfig, Pairs
from tests.numeric.test_alignment import Mixed

Tensor = torch.Tensor


class Smooth(nn.Module):
    """A small network for 8×8 digits."""

    def __init__(self, norm: Callable[[int], nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2)
        self.norm = norm(6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(54, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(F.softplus(self.norm(self.conv(x))).flatten(1)))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(2, channels),
    "batch": lambda channels: nn.BatchNorm2d(channels),
}


def session_of(
    small: Prepared,
    config: GarConfig,
    network: Callable[[], nn.Module] | None = None,
    budget: float = 2.0,
) -> Session:
    """A session on the small task, perhaps with another network."""
    if network is not None:
        small = replace(small, task=replace(small.task, network=network))
    selected = Selected(Plugin(Gar, Path(__file__), ""), config, "gar", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def policy_of(session: Session) -> OpsAndLevels:
    return OpsAndLevels(space("randaugment"), fill(session.task))


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


# Rewards


def watched(
    small: Prepared, estimator: str, network: Callable[[], nn.Module]
) -> tuple[Any, nn.Module, dict[str, Tensor], dict[str, Tensor], Tensor]:
    """One pair of steps in which the rewards are caught.

    Returns what the augmented step was, the network, its weights then, g, and the rewards.
    """
    config = GarConfig(estimator=estimator, norms=estimator == "hooks")
    session = session_of(small, config, network)
    learner = session.learner()
    pairs = Pairs(session, learner, policy_of(session), config)
    judge, seen = pairs.judge, {}
    assert judge is not None
    watch, rewards = judge.watch, judge.rewards

    def see(batch: Any) -> Tensor:
        seen.update(batch=batch, weights=weights(learner.network), dice=torch.get_rng_state())
        return watch(batch)

    def judged() -> Tensor:
        seen["g"] = {n: p.grad.clone() for n, p in learner.network.named_parameters()}
        seen["later"] = weights(learner.network)
        seen["rewards"] = rewards()
        return seen["rewards"]

    judge.watch, judge.rewards = see, judged  # type: ignore[method-assign]
    pairs.pair(0.4, 0.6)
    assert any(not torch.equal(seen["later"][n], w) for n, w in seen["weights"].items())
    plain = (learner, seen["batch"])
    return plain, learner.network, seen["weights"], seen["g"], seen["rewards"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rewards_are_the_products_of_this_steps_gradients_with_the_next_ones(
    small: Prepared, estimator: str
) -> None:
    (learner, batch), network, before, g, rewards = watched(
        small, estimator, lambda: Smooth(NORMS["group"])
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(before[name])
    network.zero_grad()
    expected = []
    pixels = learner.pixels(batch.images)
    plain = Smooth(NORMS["group"])
    plain.load_state_dict(network.state_dict())
    for x, y in zip(pixels, batch.targets, strict=True):
        loss = F.cross_entropy(plain(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        own = dict(zip(before, gradients, strict=True))
        expected.append(sum((own[name] * g[name]).sum() for name in own))
    tolerance = 2e-2 if estimator == "difference" else 1e-4
    found, wanted = rewards, torch.stack(expected)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * wanted.std().item())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_their_mean_is_the_batch_gradients_product_under_batchnorm_and_dropout(
    small: Prepared, estimator: str
) -> None:
    """So the second pass threw the first one's dice: other masks would give another mean."""
    torch.manual_seed(1)
    seen: dict[str, Tensor] = {}

    class Noted(Smooth):
        def __init__(self) -> None:
            super().__init__(NORMS["batch"], dropout=0.5)

    config = GarConfig(estimator=estimator)
    session = session_of(small, config, Noted)
    learner = session.learner()
    judge = ESTIMATORS[estimator](learner, norms=True)
    batch = next(session.batches("train"))
    network = learner.network
    with session.metered("train"):
        judge.watch(batch)
    gradient = {n: p.grad.clone() for n, p in network.named_parameters()}  # type: ignore[union-attr]
    rng = torch.Generator().manual_seed(3)
    for name, p in network.named_parameters():
        seen[name] = torch.randn(p.shape, generator=rng)
        p.grad = seen[name].clone()
    state = torch.get_rng_state()
    with session.metered("reward"):
        rewards = judge.rewards()
    assert torch.equal(state, torch.get_rng_state())
    along = sum((gradient[name] * seen[name]).sum() for name in seen)
    assert rewards.mean().item() == pytest.approx(float(along), rel=2e-2)


def test_the_difference_is_central_and_long_enough_in_half_precision(small: Prepared) -> None:
    torch.manual_seed(0)
    session = session_of(small, GarConfig())
    learner = session.learner()
    found = []
    batch = next(session.batches("train"))
    for estimator, half in (("jvp", False), ("difference", True)):
        judge = ESTIMATORS[estimator](learner)
        with (
            session.metered("x", half=int(half), jvp=int(estimator == "jvp")),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            judge.watch(batch)
            found.append(judge.rewards())
        learner.network.zero_grad()
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.98


def test_rewards_are_the_unrolled_meta_gradient() -> None:
    """d L(θ - α ∇ mean_i ω_i ℓ_i) / d ω_i = -(α/n) r_i, the derivative by unrolling the step."""
    torch.manual_seed(0)
    network = Mixed(NORMS["group"]).double()
    inputs, later = torch.randn(2, 5, 3, 14, 14, dtype=torch.float64)
    classes, then = torch.randint(4, (2, 5))
    alpha, names = 0.3, [name for name, _ in network.named_parameters()]
    omega = torch.ones(5, dtype=torch.float64, requires_grad=True)
    losses = F.cross_entropy(network(inputs), classes, reduction="none")
    inner = torch.autograd.grad(
        (omega * losses).mean(), list(network.parameters()), create_graph=True
    )
    moved = {n: p - alpha * d for n, p, d in zip(names, network.parameters(), inner, strict=True)}
    outer = F.cross_entropy(torch.func.functional_call(network, moved, (later,)), then)
    (unrolled,) = torch.autograd.grad(outer, omega)

    from methods import _alignment as alignment

    with alignment.recording(network) as tape:
        F.cross_entropy(network(inputs), classes).backward()
    ahead = {n: w.detach().requires_grad_() for n, w in moved.items()}
    loss = F.cross_entropy(torch.func.functional_call(network, ahead, (later,)), then)
    g = torch.autograd.grad(loss, list(ahead.values()))
    rewards = tape.products(dict(zip(network.parameters(), g, strict=True)))
    torch.testing.assert_close(unrolled, -alpha / 5 * rewards, rtol=1e-10, atol=0)


# The update


def test_the_policys_gradient_is_the_rewarded_score(small: Prepared) -> None:
    session = session_of(small, GarConfig())
    policy = policy_of(session)
    update = gar.Update(session, policy, GarConfig())
    draw = policy.sample(torch.arange(40), torch.Generator().manual_seed(0))
    rewards = torch.randn(40, generator=torch.Generator().manual_seed(1))
    before = policy.state_dict()
    update(draw, rewards)
    found = [leaf.grad.clone() for leaf in policy.parameters()]  # type: ignore[union-attr]

    policy.load_state_dict(before)
    w = standardised(rewards.double())
    assert w.mean().item() == pytest.approx(0, abs=1e-12)
    assert w.std().item() == pytest.approx(1)
    step = 1e-6
    with torch.no_grad():
        for leaf, gradient in zip(policy.parameters(), found, strict=True):
            flat = leaf.view(-1)
            for at in range(0, len(flat), 7):
                value = flat[at].item()
                sides = []
                for side in (step, -step):
                    flat[at] = value + side
                    sides.append((w * policy.log_prob(draw)).mean().item())
                flat[at] = value
                slope = (sides[0] - sides[1]) / (2 * step)
                assert gradient.view(-1)[at].item() == pytest.approx(slope, abs=1e-8)


def test_better_draws_become_likelier(small: Prepared) -> None:
    session = session_of(small, GarConfig())
    policy = policy_of(session)
    update = gar.Update(session, policy, GarConfig())
    rng = torch.Generator().manual_seed(0)
    draw = policy.sample(torch.arange(500), rng)
    rewards = ((draw.op == 3) & draw.gate).any(1).float()
    update(draw, rewards)
    keeps = policy.keeps.detach()
    assert keeps[3] > 0
    assert keeps[3] == keeps.max()


def test_the_mean_policy_has_the_mean_probabilities(small: Prepared) -> None:
    session = session_of(small, GarConfig())
    policy = policy_of(session)
    update = gar.Update(session, policy, GarConfig(lr=0.5))
    rng, seen = torch.Generator().manual_seed(0), []
    for _ in range(4):
        draw = policy.sample(torch.arange(30), rng)
        update(draw, torch.randn(30, generator=rng))
        seen.append([p.detach().clone() for p in policy.parameters()])
    mean = update.mean()
    counts, keeps, levels = (torch.stack(parts) for parts in zip(*seen, strict=True))
    torch.testing.assert_close(mean.counts.softmax(-1), counts.softmax(-1).mean(0))
    torch.testing.assert_close(mean.keeps.sigmoid(), keeps.sigmoid().mean(0))
    torch.testing.assert_close(mean.levels.softmax(-1), levels.softmax(-1).mean(0))


@pytest.mark.parametrize("value", [3.0, 0.1, 0.0, -2.302585])
def test_equal_rewards_weigh_nothing(value: float) -> None:
    rewards = torch.full((7,), value, dtype=torch.float64)
    assert torch.equal(standardised(rewards), torch.zeros(7, dtype=torch.float64))
    assert torch.equal(standardised(rewards[:1]), torch.zeros(1, dtype=torch.float64))
    running = Running()
    assert [running.standardise(r).item() for r in rewards.repeat(4)] == [0.0] * 28


def test_a_reward_that_is_not_finite_ends_the_run() -> None:
    lost = torch.tensor([1.0, torch.nan])
    with pytest.raises(Diverged):
        standardised(lost)
    with pytest.raises(Diverged):
        Running().standardise(lost[1])


def test_shuffling_keeps_the_weights_and_loses_their_places() -> None:
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    found = shuffled(weights, torch.Generator().manual_seed(1))
    assert not torch.equal(found, weights)
    assert torch.equal(found.sort().values, weights.sort().values)


def test_a_single_reward_is_compared_with_those_before_it() -> None:
    running = Running(decay=0.5)
    rewards = [3.0, 5.0, 4.0, 10.0]
    found = [running.standardise(torch.tensor(r, dtype=torch.float64)).item() for r in rewards]
    assert found[0] == 0
    past, importance = torch.tensor(rewards[:3]).double(), torch.tensor([0.25, 0.5, 1.0]).double()
    mean = (past * importance).sum() / importance.sum()
    deviation = ((past - mean) ** 2 * importance).sum().div(importance.sum()).sqrt()
    assert found[3] == pytest.approx(((10 - mean) / deviation).item())


# Placebos and the whole


def run(small: Prepared, **options: Any) -> tuple[Session, dict[str, Any]]:
    config = GarConfig(**options)
    session = session_of(small, config)
    fitted = Gar(config).run(session)
    return session, fitted.policy.describe()["of"][0]


@pytest.mark.parametrize("placebo", ["uniform", "uniformaugment"])
def test_a_frozen_policy_stays_where_it_began(small: Prepared, placebo: str) -> None:
    session, policy = run(small, placebo=placebo)
    start = Gar(GarConfig(placebo=placebo)).policy(small.task)
    assert start is not None
    assert policy == start.describe()["of"][0]
    assert session.tallies["policy_updates"] == 0
    learned, _ = run(small)
    assert session.plans == learned.plans  # it pays the same price
    assert learned.tallies["policy_updates"] == learned.plans[0]["pair"]


def test_shuffled_is_gar_but_for_the_places_of_the_rewards(small: Prepared) -> None:
    real, policy = run(small)
    placebo, other = run(small, placebo="shuffled")
    assert real.plans == placebo.plans
    assert policy != other
    first = [s.trace.export()["train_loss"]["value"][0] for s in (real, placebo)]
    assert first[0] == first[1]


def test_replay_trains_the_first_learner_under_the_mean_of_the_first_half(
    small: Prepared,
) -> None:
    session, policy = run(small, placebo="replay")
    assert len(session.plans) == 2
    updates = session.plans[0]["pair"]
    assert session.tallies["policy_updates"] == updates
    start = OpsAndLevels(space("randaugment")).describe()
    assert policy["levels"] != start["levels"]


def test_the_trace_tells_how_the_policy_moved(small: Prepared) -> None:
    session, policy = run(small)
    trace = session.trace.export(10_000)
    last = {
        name: torch.tensor([torch.nan if v is None else v for v in trace[name]["value"][-1]])
        for name in ("counts", "keeps", "levels")
    }
    logits = {name: torch.tensor(policy[name]) for name in last}
    torch.testing.assert_close(last["counts"], logits["counts"].softmax(-1))
    torch.testing.assert_close(last["keeps"], logits["keeps"].sigmoid())
    scale = torch.arange(31.0)
    levels = logits["levels"].softmax(-1) @ scale
    table = space("randaugment")
    assert [value is None for value in trace["levels"]["value"][-1]] == (
        (~table.has_magnitude).tolist()
    )
    moved = table.has_magnitude
    torch.testing.assert_close(last["levels"][moved], levels[moved])


def test_options_change_what_they_name(small: Prepared) -> None:
    outcomes = {
        name: run(small, **options)[1]["keeps"]
        for name, options in {
            "default": {},
            "nslr": {"reward": "nslr"},
            "clip": {"clip": 1e-3},
            "policy clip": {"policy_clip": 1e-4},
            "beta1": {"beta1": 0.0},
            "hooks": {"estimator": "hooks"},
            "norms": {"estimator": "hooks", "norms": True},
            "jvp": {"estimator": "jvp"},
        }.items()
    }
    assert len({tuple(keeps) for keeps in outcomes.values()}) == len(outcomes)


@pytest.mark.parametrize("seed", range(5))
def test_gar_gives_up_the_operation_that_hurts(seed: int) -> None:
    assert gar_planted.passes(gar_planted.keeps(seed, GarConfig(longest=2)))


def test_its_placebo_does_not() -> None:
    config = GarConfig(longest=2, placebo="shuffled")
    assert not any(gar_planted.passes(gar_planted.keeps(seed, config)) for seed in range(3))


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to shuffle"):
        GarConfig(reward="nslr", placebo="shuffled")
    with pytest.raises(ValueError, match="norms=true"):
        GarConfig(norms=True)


@pytest.mark.parametrize("placebo", [None, "replay"])
def test_a_budget_without_a_pair_is_refused(small: Prepared, placebo: Any) -> None:
    config = GarConfig(placebo=placebo)
    with pytest.raises(PlanError, match="pay for nothing"):
        Gar(config).run(session_of(small, config, budget=0.04 if placebo is None else 0.08))
