"""STN: gradients of λ and of ε's spread, whose ε it is, the entropy, warm-up, placebos; HBA's."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bench.train.dropout as dropping
import methods
from bench.augment.regularisers import Regularisers
from bench.check import small_config
from bench.errors import ConfigError, Diverged
from bench.method import Fitted, Method
from bench.plugins import Plugin, Selected, discover, select
from bench.stage import stage
from bench.train.evaluate import predict
from bench.train.prepare import Prepared
from bench.train.session import Session
from methods._hyper import HyperLayer
from methods._hypertrain import affordable
from methods._regularised import Regularised, population
from methods.hba import Hba, HbaConfig
from methods.stn import SelfTuning, Stn, StnConfig, entropy
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
PLUGINS = discover([Path(methods.__path__[0])])
ENTRIES = 7 + 4  # the small network has four dropouts


def session_of(small: Prepared, method: Method, budget: float = 1.0) -> Session:
    selected = Selected(Plugin(type(method), Path(__file__), ""), method.config, method.name, None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def training_of(small: Prepared, budget: float = 1.0, **options: Any) -> SelfTuning:
    """A training, its V of a size at which λ matters."""
    config = StnConfig(**options)
    method = Stn(config)
    session = session_of(small, method, budget)
    found = population(session.task, config.sigma)
    learner = method.learner(session, found)
    training = SelfTuning(session, learner, found, config, config.placebo == "uniform")
    for name, parameter in learner.network.named_parameters():
        if name.endswith("hyper_v"):
            parameter.data.copy_(0.1 * numbers(*parameter.shape))
    return training


def run(small: Prepared, method: Method, budget: float = 1.5) -> tuple[Session, Fitted]:
    session = session_of(small, method, budget)
    return session, method.run(session)


def found_in(fitted: Fitted) -> Regularisers:
    (first, *_) = fitted.policy.policies  # type: ignore[attr-defined]
    assert isinstance(first, Regularisers)
    return first


def smoothed(small: Prepared) -> Prepared:
    """With activations that have a derivative everywhere."""
    plain = small.task.network

    def network() -> nn.Module:
        made = plain()
        for name in ("act1", "act2", "act3"):
            setattr(made, name, nn.Softplus())
        return made

    return replace(small, task=replace(small.task, network=network))


# Gradients


@pytest.mark.parametrize("learned", [True, False])
def test_a_step_goes_down_the_validation_loss_less_entropy(small: Prepared, learned: bool) -> None:
    """λ and s against finite differences, for the same ε; clean images, no dropout, one mode."""
    small = smoothed(small)
    training = training_of(small, learned=learned, entropy=0.05)
    training.entries.data += 0.3 * numbers(ENTRIES)
    training.spread.data += 0.2 * numbers(ENTRIES, seed=1)
    learner, network = training.learner, training.learner.network.double()
    learner.pixels = lambda x: small.task.normalise(x).double()  # type: ignore[method-assign]
    training._given = lambda entries: entries * 1.0  # type: ignore[method-assign]
    batch = next(training.val_batches)
    training.val_batches = iter([batch])
    moved: list[tuple[Tensor, ...]] = []
    training.move = lambda *found: moved.append(found)  # type: ignore[method-assign]
    state = training.session.rng("hyper").get_state()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training.hyper()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in network.parameters())
    noise = torch.randn(
        (len(batch), ENTRIES),
        generator=torch.Generator().set_state(state),
        dtype=torch.float64,
    )
    network.eval()

    def loss(entries: Tensor, s: Tensor) -> float:
        sigma = s.exp().log1p()
        rows = entries + sigma * noise if learned else entries
        with torch.no_grad(), training.session.metered("check"):
            value = F.cross_entropy(
                network(small.task.normalise(batch.images).double(), rows), batch.targets
            )
        spread = (0.5 + 0.5 * math.log(2 * math.pi) + sigma.log()).sum() if learned else 0.0
        return float(value - 0.05 * spread)

    at, s, step = training.entries.detach(), training.spread.detach(), 1e-4
    assert len(moved[0]) == (2 if learned else 1)
    for entry in range(ENTRIES):
        side = torch.zeros_like(at)
        side[entry] = step
        expected = (loss(at + side, s) - loss(at - side, s)) / (2 * step)
        assert float(moved[0][0][entry]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
        if learned:
            expected = (loss(at, s + side) - loss(at, s - side)) / (2 * step)
            assert float(moved[0][1][entry]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
            pull = -0.05 * float(s[entry].sigmoid() / s[entry].exp().log1p())
            assert abs(expected - pull) > 1e-6  # the loss has its say as well
    assert moved[0][0].abs().min() > 1e-7


def test_the_entropy_is_that_of_normal_numbers() -> None:
    sigma = numbers(12).exp()
    expected = torch.distributions.Normal(torch.zeros(12), sigma).entropy().sum()
    torch.testing.assert_close(entropy(sigma), expected)


def test_adam_moves_lambda_and_the_spread_together(small: Prepared) -> None:
    training = training_of(small, lr=0.02)
    copies = [leaf.detach().clone().requires_grad_() for leaf in training.leaves]
    adam = torch.optim.Adam(copies, 0.02)
    torch.testing.assert_close(F.softplus(copies[1]), torch.full_like(copies[1], 0.5))
    for seed in range(4):
        found = [numbers(ENTRIES, seed=seed), numbers(ENTRIES, seed=seed + 9)]
        training.move(*found)
        for copy, gradient in zip(copies, found, strict=True):
            copy.grad = gradient
        adam.step()
    assert torch.equal(training.entries, copies[0])
    assert torch.equal(training.population.sigma, F.softplus(copies[1]))
    torch.testing.assert_close(training.learner.network.hyper_lambda, copies[0].detach().float())
    with pytest.raises(Diverged, match="not finite"):
        training.move(found[0], torch.full((ENTRIES,), math.nan))
    fixed = training_of(small, learned=False, sigma=0.8)
    fixed.move(found[0])
    assert (fixed.population.sigma == 0.8).all()
    assert len(fixed.leaves) == 1


# Whose ε


@pytest.mark.parametrize("method", ["stn", "hba"])
def test_one_lambda_makes_the_image_its_weights_and_its_dropouts(
    small: Prepared, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "stn":
        training: Regularised = training_of(small)
    else:
        own = Hba(HbaConfig(space="regularisers", layers="conv"))
        session = session_of(small, own)
        found = own.population(session.task)
        training = Regularised(session, own.learner(session), found, own.config)
    drawn: list[Any] = []
    weights: list[Tensor] = []
    rates: list[Tensor] = []
    sample = training.policy.sample

    def sampled(*arguments: Any) -> Any:
        drawn.append(sample(*arguments))
        return drawn[-1]

    whole = dropping.drop

    def dropped(x: Tensor, rate: Tensor, *rest: Any) -> Tensor:
        if x.dim() != 3:  # as which it calls itself for channels of flat inputs
            rates.append(rate)
        return whole(x, rate, *rest)

    training.policy.sample = sampled  # type: ignore[method-assign]
    monkeypatch.setattr(dropping, "drop", dropped)
    network = training.learner.network
    first = next(m for m in network.modules() if isinstance(m, HyperLayer))
    first.register_forward_pre_hook(lambda layer, _: weights.append(layer.conditions.rows))
    steps = 3
    for _ in range(steps):
        training.step(0.0)
    assert len(drawn) == len(weights) == steps
    origin = network.hyper_origin.double()
    for step, (draw, *_) in enumerate(drawn):
        expected = (draw.entries - origin).float()
        torch.testing.assert_close(weights[step], expected, rtol=1e-5, atol=1e-5)
        spread = 0.5 if method == "stn" else 1.0
        noise = draw.entries - training.entries.detach()
        assert float(noise.std()) == pytest.approx(spread, rel=0.12)
        strengths = training.population.strengths(draw.entries)
        width = strengths[:, 1:4]
        assert ((draw.factors - 1).abs() <= width).all()
        assert torch.equal(draw.half, strengths[:, 4].long() // 2)
        inside = rates[step * len(rates) // steps : (step + 1) * len(rates) // steps]
        for column in range(4):
            torch.testing.assert_close(inside[column].double(), strengths[:, 7 + column])
        assert not any(rate.requires_grad for rate in inside)


def test_steps_of_lambda_and_evaluation_drop_nothing(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> Tensor:
        raise AssertionError("dropped")

    for validation in ("eval", "train"):
        training = training_of(small, validation=validation)
        training.step(0.0)
        with monkeypatch.context() as patch:
            patch.setattr(dropping, "drop", forbidden)
            patch.setattr(training.policy, "apply", forbidden)
            training.hyper()
            predict(training.learner, small.task.val, training.session._meter, "x")
            with pytest.raises(AssertionError, match="dropped"):
                training.step(0.0)


def test_validation_images_have_an_epsilon_each(small: Prepared) -> None:
    training = training_of(small, sigma=0.7)
    with torch.no_grad():
        rows = training.rows(4000)
        assert rows.shape == (4000, ENTRIES)
        torch.testing.assert_close(
            rows.mean(0), training.entries.detach().float(), atol=0.06, rtol=0
        )
        torch.testing.assert_close(rows.std(0), torch.full((ENTRIES,), 0.7), atol=0.04, rtol=0)
        assert not torch.equal(rows, training.rows(4000))
    assert training_of(small, learned=False).rows(4000).shape == (ENTRIES,)


def test_evaluation_uses_lambda_as_it_is(small: Prepared) -> None:
    training = training_of(small)
    training.move(numbers(ENTRIES), numbers(ENTRIES))
    learner, session = training.learner, training.session
    found = predict(learner, small.task.val, session._meter, "x")
    learner.network.eval()
    with torch.no_grad(), session.metered("y"):
        rows = training.entries.detach().float().expand(len(found), ENTRIES)
        expected = learner(small.task.val.images, rows)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# The plan

prices = st.floats(1e-3, 0.2)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 5), prices, prices, st.integers(1, 5), st.integers(1, 3), st.floats(0, 0.6))
def test_the_plan_fills_the_budget(
    budget: float, step: float, hyper: float, every: int, each: int, warmup: float
) -> None:
    plan = affordable(budget, step, hyper, every, each, warmup)
    warm = math.floor(warmup * plan["step"])
    turns = [done for done in range(1, plan["step"] + 1) if done % every == 0 and done > warm]
    assert plan["hyper"] == each * len(turns)
    spent = plan["step"] * step + plan["hyper"] * hyper
    assert spent <= budget * (1 + 1e-8)
    assert spent + step + each * hyper > budget * (1 - 1e-8)


def test_lambda_waits_for_the_warm_up(small: Prepared) -> None:
    training = training_of(small, budget=2.0, warmup=0.4)
    said: list[str] = []
    for name in ("step", "hyper"):
        work: Callable[..., Any] = getattr(training, name)

        def noted(*arguments: Any, name: str = name, work: Any = work) -> Any:
            if training.session._meter.ledger.account == "run":
                said.append(name[0])
            return work(*arguments)

        setattr(training, name, noted)
    training.train()
    (plan,) = training.session.plans
    total, warm = plan["step"], math.floor(0.4 * plan["step"])
    expected = "".join(
        "sh" if done % 2 == 0 and done > warm else "s" for done in range(1, total + 1)
    )
    assert "".join(said) == expected
    assert warm > 5
    assert plan["hyper"] == expected.count("h") == len(training.path) - 1
    ledger = training.session._meter.ledger
    assert 0 <= ledger.budget - ledger.spent < 2 * training.session.prices["step"]
    trace = training.session.trace.export(1000)
    strengths = torch.stack([training.population.strengths(at) for at in training.path[1:]])
    torch.testing.assert_close(torch.tensor(trace["strengths"]["value"]), strengths.float())
    assert len(trace["sigma"]["value"][0]) == ENTRIES


def test_a_rehearsal_leaves_no_trace(small: Prepared) -> None:
    training = training_of(small)
    before = [leaf.detach().clone() for leaf in training.leaves]
    digest, masks = training.learner.digest(), training.masks.get_state()
    for label, step in (("step", lambda: training.step(0.0)), ("hyper", training.hyper)):
        training.session.price(label, step)
    for leaf, value in zip(training.leaves, before, strict=True):
        assert torch.equal(leaf.detach(), value)
    assert (training.population.sigma == 0.5).all()
    assert training.learner.digest() == digest
    assert torch.equal(training.masks.get_state(), masks)
    assert not training.adam.state_dict()["state"]


# Runs


def test_a_run_tunes_and_returns_the_network_at_lambda(small: Prepared) -> None:
    session, fitted = run(small, Stn(StnConfig(lr=0.03)), budget=2.0)
    found = found_in(fitted)
    network = fitted.learner.network
    torch.testing.assert_close(network.hyper_lambda.double(), found.entries, atol=1e-6, rtol=1e-6)
    start = population(small.task, 0.5)
    assert (found.entries - start.entries).abs().min() > 0.02
    assert (found.sigma - 0.5).abs().mean() > 0.02
    assert session.tallies["policy_updates"] == session.plans[0]["hyper"] > 10
    assert [part["policy"] for part in fitted.policy.describe()["of"]] == [
        "regularisers",
        "crop-flip",
    ]
    assert any("STN had neither" in said for said in fitted.deviations)
    assert not any("never moved" in said for said in fitted.deviations)


@pytest.mark.parametrize("centred", [True, False])
def test_hyper_layers_start_as_the_paper_s(small: Prepared, centred: bool) -> None:
    method = Stn(StnConfig(centred=centred))
    session = session_of(small, method)
    network = method.learner(session, population(session.task, 0.5)).network
    layers = {name: m for name, m in network.named_modules() if isinstance(m, HyperLayer)}
    assert set(layers) == {"conv1", "conv2", "conv3", "head"}
    every = torch.cat([layer.hyper_v.detach().flatten() for layer in layers.values()])
    assert float(every.std()) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(network.hyper_origin, network.hyper_lambda * centred)
    for name, value in session_of(small, method).learner().network.named_parameters():
        assert torch.equal(value, network.get_parameter(name))


def test_without_crop_and_flip_no_difference_is_named(small: Prepared) -> None:
    recipe = small.task.recipe.model_copy(update={"pad": 0, "flip": False})
    bare = replace(small, task=replace(small.task, recipe=recipe))
    _, fitted = run(bare, Stn(StnConfig()), budget=0.4)
    assert not any("neither" in said for said in fitted.deviations)


def test_uniform_pays_for_everything_and_never_moves(small: Prepared) -> None:
    real = run(small, Stn(StnConfig()))
    session, fitted = run(small, Stn(StnConfig(placebo="uniform")))
    assert session.plans == real[0].plans
    assert session._meter.ledger.spent == real[0]._meter.ledger.spent
    assert session.tallies["policy_updates"] == 0
    assert torch.equal(found_in(fitted).entries, population(small.task, 0.5).entries)
    assert (found_in(fitted).sigma == 0.5).all()


def test_shuffled_moves_by_the_same_gradients_at_other_entries(small: Prepared) -> None:
    found, spread = numbers(ENTRIES), numbers(ENTRIES, seed=1)
    training = training_of(small, placebo="shuffled")
    training.move(found, spread)
    given_, other = (leaf.grad for leaf in training.leaves)
    assert given_ is not None
    assert other is not None
    order = (given_[:, None] == found[None]).long().argmax(1)
    assert sorted(order.tolist()) == list(range(ENTRIES)) != order.tolist()
    assert torch.equal(given_, found[order])
    assert torch.equal(other, spread[order])  # an entry's two go together


def test_networks_with_shortcuts_are_skipped(small: Prepared) -> None:
    from bench.networks import build

    task = replace(small.task, network=lambda: build("wrn-10-1", 10, small.task.channels, 8))
    for method in (Stn(StnConfig()), Hba(HbaConfig(space="regularisers", layers="conv"))):
        assert "need a chain of layers" in (method.skip(task, 3.0) or "")
        assert method.skip(small.task, 3.0) is None
    assert Hba(HbaConfig(layers="conv")).skip(task, 3.0) is None


# HBA over the same hyperparameters


def test_hba_tunes_regularisers(small: Prepared) -> None:
    method = Hba(HbaConfig(space="regularisers", layers="conv", lr=0.1))
    session, fitted = run(small, method)
    found, network = found_in(fitted), fitted.learner.network
    assert (found.sigma == 1).all()
    assert (found.entries - population(small.task, 1.0).entries).abs().max() > 0.1
    torch.testing.assert_close(network.hyper_lambda.double(), found.entries, atol=1e-6, rtol=1e-6)
    assert "strengths" in session.trace.export()
    assert len(fitted.policy.policies) == 2  # type: ignore[attr-defined]  # no second Cutout
    assert not any("posterize" in said for said in fitted.deviations)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("mode=replay", "nothing replays it"),
        ("placebo=replay", "nothing replays it"),
        ("start=0.2", "has starts of its own"),
    ],
)
def test_options_that_make_no_sense_with_regularisers(options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        select(PLUGINS, f"hba[space=regularisers,{options}]")
