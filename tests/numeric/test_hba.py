"""HBA: whose ε the network sees, λ's step, the plan, schedules that are replayed, placebos."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from bench.augment.export import save
from bench.augment.population import Population, Schedule, interpolated
from bench.augment.spaces import space
from bench.check import small_config
from bench.errors import ConfigError, Diverged, PlanError
from bench.method import Fitted
from bench.networks import build
from bench.networks.flops import FlopCounter
from bench.plugins import Plugin, Selected, discover, select
from bench.stage import stage
from bench.train.evaluate import predict
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import around
from methods import hba
from methods._hyper import HyperLayer
from methods._hypertrain import affordable
from methods.hba import Hba, HbaConfig, Search
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
METHODS = Path(hba.__file__).parent


def session_of(small: Prepared, config: HbaConfig, budget: float = 1.0) -> Session:
    selected = Selected(Plugin(Hba, Path(__file__), ""), config, "hba", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def search_of(small: Prepared, budget: float = 1.0, **options: Any) -> Search:
    """A search, its V at random, so that λ matters."""
    config = HbaConfig(**options)
    session, method = session_of(small, config, budget), Hba(config)
    frozen = config.placebo == "uniform"
    search = Search(
        session, method.learner(session), method.population(session.task), config, frozen
    )
    for name, parameter in search.learner.network.named_parameters():
        if name.endswith("hyper_v"):
            parameter.data.copy_(0.1 * numbers(*parameter.shape))
    return search


def run(small: Prepared, budget: float = 1.5, **options: Any) -> tuple[Session, Fitted]:
    config = HbaConfig(**options)
    session = session_of(small, config, budget)
    return session, Hba(config).run(session)


def schedule_of(fitted: Fitted) -> Schedule:
    (found, *_) = fitted.policy.policies  # type: ignore[attr-defined]
    assert isinstance(found, Schedule)
    return found


# Steps


@pytest.mark.parametrize("layers", ["first-bn", "conv+bn"])
def test_the_network_sees_the_lambda_that_augmented_the_image(
    small: Prepared, layers: str
) -> None:
    """Caught where images are made, and in the layers themselves."""
    search = search_of(small, layers=layers)
    made: list[tuple[Tensor, Any]] = []
    seen: list[tuple[Tensor, Tensor]] = []
    apply = search.policy.apply

    def applied(batch: Any, draw: Any) -> Any:
        out = apply(batch, draw)
        made.append((out.images, draw[0]))
        return out

    search.policy.apply = applied  # type: ignore[method-assign]
    network = search.learner.network
    first = next(m for m in network.modules() if isinstance(m, HyperLayer))
    first.register_forward_pre_hook(
        lambda layer, inputs: seen.append((layer.conditions.rows, inputs[0]))
    )
    for _ in range(3):
        search.step(0.0)
    assert len(made) == len(seen) == 3
    for (images, draw), (rows, _) in zip(made, seen, strict=True):
        expected = (draw.entries - search.entries).float()
        torch.testing.assert_close(rows, expected.detach(), rtol=1e-5, atol=1e-5)
        assert float(rows.std()) == pytest.approx(1, abs=0.05)
        assert len(images) == len(rows)
        # The walk that made the image is the walk of these logits: the same coins, the same limit.
        again = Population(space("pba"), entries=search.entries, sigma=1.0)
        levels = again.split(draw.entries)[1].sigmoid()
        done = draw.gate[:, 0]
        place = torch.where(draw.done, 0, 1).argmin(1)
        pair = draw.order.gather(1, place[:, None])
        assert torch.equal(draw.level[done, 0], levels.gather(1, pair)[done, 0])
    assert not torch.equal(seen[0][0], seen[1][0])  # drawn anew for every step


def test_the_step_of_lambda_goes_down_the_validation_loss_through_the_weights(
    small: Prepared,
) -> None:
    """Its gradient against finite differences; clean images, no ε, evaluation mode, Adam."""
    plain = small.task.network

    def smooth() -> nn.Module:
        network = plain()
        for name in ("act1", "act2", "act3"):
            setattr(network, name, nn.Softplus())
        return network

    small = replace(small, task=replace(small.task, network=smooth))
    search = search_of(small, layers="conv+bn", lr=0.01)
    learner, network = search.learner, search.learner.network.double()
    search.learner.pixels = lambda x: small.task.normalise(x).double()  # type: ignore
    search._given = lambda entries: entries * 1.0  # type: ignore[method-assign]
    batch = next(search.val_batches)
    search.val_batches = iter([batch])
    moved: list[Tensor] = []
    search.move = moved.append  # type: ignore[method-assign]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    search.hyper()
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in network.parameters())
    network.eval()

    def loss(entries: Tensor) -> float:
        with torch.no_grad(), search.session.metered("check"):
            logits = network(learner.pixels(batch.images), entries)
            return float(F.cross_entropy(logits, batch.targets))

    at, step = search.entries.detach(), 1e-4
    for entry in range(0, 54, 6):
        side = torch.zeros_like(at)
        side[entry] = step
        expected = (loss(at + side) - loss(at - side)) / (2 * step)
        assert float(moved[0][entry]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert moved[0].abs().min() > 1e-7


def test_adam_moves_lambda_and_the_network_follows(small: Prepared) -> None:
    search = search_of(small, lr=0.02)
    start = search.entries.detach().clone()
    reference = start.clone().requires_grad_()
    adam = torch.optim.Adam([reference], 0.02)
    for seed in range(4):
        search.move(numbers(54, seed=seed))
        reference.grad = numbers(54, seed=seed)
        adam.step()
    torch.testing.assert_close(search.entries.detach(), reference.detach())
    torch.testing.assert_close(search.learner.network.hyper_lambda, reference.detach().float())
    search.move(torch.full((54,), 1.0).double())
    with pytest.raises(Diverged, match="not finite"):
        search.move(torch.full((54,), math.nan))
    decayed = {id(p) for group in search.learner.optimiser.param_groups for p in group["params"]}
    assert id(search.entries) not in decayed
    assert decayed == {id(p) for p in search.learner.network.parameters()}


def test_a_step_of_lambda_costs_a_pass_forward_and_one_back_to_its_layer(small: Prepared) -> None:
    """With the first BatchNorm, what lies below it is only passed forward."""
    search = search_of(small)
    batch = next(search.val_batches)
    search.val_batches = iter([batch, batch])
    network = small.task.network()
    with search.session.metered("x"), torch.no_grad(), FlopCounter() as forward:
        network(small.task.normalise(batch.images))
    below = 2 * len(batch) * 32 * 9 * 8 * 8  # the first convolution
    search.hyper()
    with FlopCounter() as counter:
        search.hyper()
    v = 2 * 2 * 32 * 54  # Vᵀ is a matrix product at most
    assert 0 <= counter.total - (2 * forward.total - below) <= v


def test_evaluation_uses_lambda_as_it_is(small: Prepared) -> None:
    search = search_of(small)
    learner, session = search.learner, search.session
    before = predict(learner, small.task.val, session._meter, "x")
    search.move(numbers(54))
    after = predict(learner, small.task.val, session._meter, "x")
    assert not torch.allclose(before, after)
    learner.network.eval()
    with torch.no_grad(), session.metered("y"):
        rows = search.entries.detach().float().expand(len(after), 54)
        expected = learner(small.task.val.images, rows)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_a_rehearsal_leaves_no_trace(small: Prepared) -> None:
    search = search_of(small)
    entries, digest = search.entries.detach().clone(), search.learner.digest()
    for label, step in (("step", lambda: search.step(0.0)), ("hyper", search.hyper)):
        search.session.price(label, step)
    assert torch.equal(search.entries.detach(), entries)
    assert search.learner.digest() == digest
    assert not search.adam.state_dict()["state"]
    assert len(search.path) == 1


# The plan

prices = st.floats(1e-4, 0.2)


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 5), prices, prices, st.integers(1, 5), st.integers(1, 3))
@example(2.0, 0.01, 0.005, 2, 1)
def test_the_plan_fills_the_budget(
    budget: float, step: float, hyper: float, every: int, each: int
) -> None:
    def cost(steps: int) -> float:
        return steps * step + steps // every * each * hyper

    plan = affordable(budget, step, hyper, every, each)
    assert plan["hyper"] == plan["step"] // every * each
    assert cost(plan["step"]) <= budget * (1 + 1e-8)
    assert cost(plan["step"] + 1) > budget * (1 - 1e-8)


@pytest.mark.parametrize(("every", "each"), [(2, 1), (3, 2)])
def test_lambda_moves_after_every_second_step(small: Prepared, every: int, each: int) -> None:
    search = search_of(small, train_steps=every, val_steps=each)
    said: list[str] = []
    for name in ("step", "hyper"):
        work: Callable[..., Any] = getattr(search, name)

        def noted(*given_: Any, name: str = name, work: Any = work) -> Any:
            if search.session._meter.ledger.account == "run":
                said.append(name[0])
            return work(*given_)

        setattr(search, name, noted)
    made = search.train()
    plan = search.session.plans[0]
    turns = plan["step"] // every
    assert "".join(said) == ("s" * every + "h" * each) * turns + "s" * (plan["step"] % every)
    assert len(search.path) == 1 + plan["hyper"] == 1 + turns * each
    assert search.session.tallies["policy_updates"] == plan["hyper"]
    ledger = search.session._meter.ledger
    assert 0 <= ledger.budget - ledger.spent < 2 * search.session.prices["step"]
    assert torch.equal(made.knots[-1], search.entries.detach().round(decimals=4))
    trace = search.session.trace.export(1000)
    expected = torch.stack(search.path[1:]).sigmoid()[:, :30]
    torch.testing.assert_close(torch.tensor(trace["probabilities"]["value"]), expected.float())
    assert len(trace["magnitudes"]["value"][0]) == 30
    assert trace["magnitudes"]["value"][0][7] is None  # of equalize


def test_a_budget_without_a_step_is_refused(small: Prepared) -> None:
    with pytest.raises(PlanError, match="pay for nothing"):
        run(small, budget=0.04)


# Modes


def test_joint_returns_the_hypernetwork_at_lambda(small: Prepared) -> None:
    session, fitted = run(small)
    made, network = schedule_of(fitted), fitted.learner.network
    torch.testing.assert_close(network.hyper_lambda.double(), made.knots[-1], atol=1e-4, rtol=0)
    assert made.sigma == 1.0
    assert torch.equal(made.knots[0], torch.full((54,), -2.9444, dtype=torch.float64))
    assert (made.knots[-1] - made.knots[0]).abs().max() > 0.1
    assert session.tallies["steps"] == session.plans[0]["step"]
    # It starts as every method's first network does.
    first = session_of(small, HbaConfig())
    hyper, plain = Hba(HbaConfig()).learner(first), session_of(small, HbaConfig()).learner()
    for name, value in plain.network.named_parameters():
        assert torch.equal(value, hyper.network.get_parameter(name))


def test_replay_trains_a_plain_network_under_the_stretched_schedule(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    step = hba.training_step

    def caught(session: Session, learner: Any, policy: Any, *rest: Any) -> Tensor:
        if session._meter.ledger.account == "run":
            seen.append(policy.policies[0].entries.clone())
        return step(session, learner, policy, *rest)

    monkeypatch.setattr(hba, "training_step", caught)
    session, fitted = run(small, mode="replay", search=0.4)
    searched, trained = session.plans
    assert set(searched) == {"step", "hyper"}
    assert trained == {"train": len(seen)}
    made = schedule_of(fitted)
    assert made.sigma == 0
    for done, entries in enumerate(seen):
        torch.testing.assert_close(entries, interpolated(made.knots, done / len(seen)))
    assert not any(isinstance(m, HyperLayer) for m in fitted.learner.network.modules())
    assert torch.equal(made.entries, made.knots[-1])
    # Both are on the bill, in the shares that were asked for.
    ledger, prices_ = session._meter.ledger, session.prices
    search = searched["step"] * prices_["step"] + searched["hyper"] * prices_["hyper"]
    training = trained["train"] * prices_["train"]
    assert search + training == pytest.approx(ledger.spent, rel=1e-6)
    assert search / ledger.budget == pytest.approx(0.4, abs=0.02)
    assert ledger.spent / ledger.budget > 0.97


def test_the_replayed_network_is_the_runs_first(small: Prepared) -> None:
    """So it pairs with other methods': initial weights and order of batches."""
    config = HbaConfig(mode="replay")
    session = session_of(small, config, 1.0)
    learners: list[Any] = []
    make = session.learner
    session.learner = lambda *given_: learners.append(make(*given_)) or learners[-1]  # type: ignore
    fitted = Hba(config).run(session)
    assert fitted.learner is learners[0]
    assert len(learners) == 2


@pytest.mark.parametrize("noise", [False, True])
def test_noise_in_replays_is_as_told(small: Prepared, noise: bool) -> None:
    _, fitted = run(small, mode="replay", noise=noise, sigma=0.5)
    assert schedule_of(fitted).sigma == (0.5 if noise else 0.0)
    assert any(("λ perturbed" if noise else "λ itself") in text for text in fitted.deviations)


# A schedule from elsewhere


def saved(path: Path, rows: Tensor | None = None) -> Schedule:
    knots = numbers(9, 54) - 2 if rows is None else rows
    made = Schedule.along(Population(space("pba"), sigma=1.0), knots)
    save(around_of(made), path, {"run": "test"})
    return made


def around_of(schedule: Schedule) -> dict[str, Any]:
    from bench.augment.policy import Chain
    from bench.augment.standard import CropFlip

    return Chain(schedule, CropFlip(4, True)).describe()


def test_a_saved_schedule_trains_another_network(small: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    made = saved(path)
    session, fitted = run(small, budget=1.0, mode="replay", schedule=str(path))
    assert torch.equal(schedule_of(fitted).knots, made.knots)
    assert schedule_of(fitted).fill != made.fill  # colours are the task's own
    assert [set(plan) for plan in session.plans] == [{"train"}]
    assert session.tallies["policy_updates"] == 0
    labels = {label for label, _, _ in session._meter.ledger.items("run")}
    assert labels == {"augment", "train"}
    assert any("its search was paid for elsewhere" in text for text in fitted.deviations)


def test_what_a_saved_schedule_has_cost_is_told(small: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    made = Schedule(space("pba"), knots=numbers(5, 54))
    save(made.describe(), path, {"flops": 1234567, "task": "pets"})
    _, fitted = run(small, budget=1.0, mode="replay", schedule=str(path))
    assert any("1.23e+06 FLOPs on pets, was paid" in text for text in fitted.deviations)


def test_a_reduced_search_sees_a_part_of_the_images(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    sample = Population.sample

    def watched(policy: Population, index: Tensor, rng: torch.Generator) -> Any:
        images = small.task.train.images  # indices of a part are its own
        seen[isinstance(policy, Schedule)] |= {int(i) for i in index}
        assert int(index.max()) < len(images)
        return sample(policy, index, rng)

    monkeypatch.setattr(Population, "sample", watched)
    session, fitted = run(small, budget=6.0, mode="replay", reduced=0.25)
    count = len(small.task.train)
    assert seen[False] == set(range(round(0.25 * count)))
    assert len(seen[True]) > 0.9 * count
    assert any("on 0.25 of the task's images" in text for text in fitted.deviations)
    whole, _ = run(small, budget=6.0, mode="replay")
    assert session.plans == whole.plans  # the same bill


def test_the_options_name_the_schedule_not_only_the_file(tmp_path: Path) -> None:
    plugins = discover([METHODS])
    path = tmp_path / "policy.json"
    saved(path)
    first = select(plugins, f"hba[mode=replay,schedule={path}]")
    assert select(plugins, first.spec).spec == first.spec
    saved(path, numbers(9, 54, seed=2))
    assert select(plugins, f"hba[mode=replay,schedule={path}]").spec != first.spec
    with pytest.raises(ConfigError, match="holds another schedule than"):
        select(plugins, first.spec)


def test_files_without_a_schedule_are_refused(tmp_path: Path) -> None:
    plugins = discover([METHODS])
    path = tmp_path / "policy.json"
    save(Population(space("pba")).describe(), path, {})
    with pytest.raises(ConfigError, match="holds no schedule"):
        select(plugins, f"hba[mode=replay,schedule={path}]")
    with pytest.raises(ConfigError, match="cannot be read"):
        select(plugins, f"hba[mode=replay,schedule={tmp_path / 'none.json'}]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "FILE"}, "add mode=replay"),
        ({"schedule": "FILE", "mode": "replay", "placebo": "shuffled"}, "placebo=shuffled is not"),
        ({"noise": True}, "add mode=replay"),
        ({"reduced": 0.5}, "add mode=replay"),
        ({"reduced": 0.5, "mode": "replay", "schedule": "FILE"}, "a training follows"),
    ],
)
def test_options_that_contradict_each_other(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path / "policy.json")
    if "schedule" in options:
        options["schedule"] = str(tmp_path / "policy.json")
    with pytest.raises(ValueError, match=message):
        HbaConfig(**options)


# Placebos


def test_uniform_pays_for_everything_and_never_moves(small: Prepared) -> None:
    real, (session, fitted) = run(small), run(small, placebo="uniform")
    assert (schedule_of(fitted).knots == schedule_of(fitted).knots[0, 0]).all()
    assert session.plans == real[0].plans
    assert session._meter.ledger.spent == real[0]._meter.ledger.spent
    assert session.tallies["policy_updates"] == 0
    start = HbaConfig().start
    assert float(schedule_of(fitted).values()[0][0]) == pytest.approx(start, abs=1e-4)


def test_shuffled_moves_by_the_same_gradients_at_other_entries(small: Prepared) -> None:
    found = numbers(54)
    real, placebo = search_of(small), search_of(small, placebo="shuffled")
    real.move(found)
    placebo.move(found)
    assert torch.equal(real.entries.grad, found)
    given_ = placebo.entries.grad
    assert given_ is not None
    assert not torch.equal(given_, found)
    assert torch.equal(given_.sort().values, found.sort().values)
    placebo.move(found)
    assert not torch.equal(placebo.entries.grad, given_)  # anew every time


@pytest.mark.parametrize("mode", ["joint", "replay"])
def test_the_replay_placebo_trains_under_the_mean(
    small: Prepared, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[Tensor] = []
    train = Search.train

    def caught(search: Search, *given_: Any, **more: Any) -> Schedule:
        out = train(search, *given_, **more)
        paths.append(torch.stack(search.path))
        return out

    monkeypatch.setattr(Search, "train", caught)
    session, fitted = run(small, mode=mode, placebo="replay")
    knots = schedule_of(fitted).knots
    assert (knots == knots[0]).all()
    expected = torch.trapezoid(paths[0], dim=0) / (len(paths[0]) - 1)
    torch.testing.assert_close(knots[0], expected, atol=5e-3, rtol=0)
    assert (knots[0] + 2.9444).abs().max() > 0.02
    assert session.tallies["policy_updates"] == session.plans[0]["hyper"]
    hyper = any(isinstance(m, HyperLayer) for m in fitted.learner.network.modules())
    assert hyper is (mode == "joint")


# Options


def test_options_change_what_they_name(small: Prepared) -> None:
    ends = {
        name: tuple(schedule_of(run(small, budget=0.3, **options)[1]).knots[-1].tolist())
        for name, options in {
            "default": {},
            "layers": {"layers": "bn"},
            "sigma": {"sigma": 0.5},
            "start": {"start": 0.2},
            "lr": {"lr": 0.01},
            "validation": {"validation": "train"},
            "space": {"space": "pba-raw"},
            "centred space": {"space": "pba-centred"},
            "origin": {"centred": False},
            "cutout": {"cutout": False},
            "turns": {"train_steps": 3},
        }.items()
    }
    assert len(set(ends.values())) == len(ends)


def test_validation_mode_says_whose_statistics(small: Prepared) -> None:
    for mode in ("eval", "train"):
        search = search_of(small, validation=mode)
        before = search.learner.network.norm1.running_mean.clone()
        search.hyper()
        moved = not torch.equal(search.learner.network.norm1.running_mean, before)
        assert moved is (mode == "train")
        assert search.learner.network.training


def test_a_network_without_the_layers_is_skipped_with_a_reason(small: Prepared) -> None:
    task = replace(
        small.task, size=28, network=lambda: build("lenet", 10, small.task.channels, 28)
    )
    assert Hba(HbaConfig()).skip(task, 1.0) == "the network has no layer for layers=first-bn"
    assert Hba(HbaConfig(layers="conv")).skip(task, 1.0) is None
    assert Hba(HbaConfig()).skip(small.task, 1.0) is None


def test_minimum_counts_search_and_training(small: Prepared) -> None:
    def least(**options: Any) -> float:
        return Hba(HbaConfig(**options)).minimum(small.task)

    assert least() == pytest.approx(4 / 3)
    assert least(mode="replay") == pytest.approx(8 / 3)
    assert least(mode="replay", search=0.8) == pytest.approx(5)
    assert least(placebo="replay", search=0.25) == pytest.approx(16 / 3)


def test_the_start_is_the_papers(small: Prepared) -> None:
    policy = Hba(HbaConfig()).policy(small.task)
    population = policy.policies[0]  # type: ignore[attr-defined]
    probabilities, shares = population.values()
    assert probabilities.tolist() == pytest.approx([0.05] * 30)
    assert shares[~shares.isnan()].tolist() == pytest.approx([0.05] * 24)
    assert population.limits == (0.2, 0.3, 0.5)
    described = around(small.task, population).describe()["of"]
    assert [part["policy"] for part in described] == ["population", "crop-flip", "cutout"]
    assert policy.describe()["of"] == described
