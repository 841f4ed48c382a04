"""PBT: copies bit for bit, variations against exact probabilities, lineage, plan, modes."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from baselines import pbt
from baselines._population_training import (
    ROUNDS,
    Member,
    Quartiles,
    Training,
    Winner,
    affordable,
)
from baselines.pbt import KNOTS, Pbt, PbtConfig
from bench.augment.export import load, save
from bench.augment.population import Population, Schedule, schedule_in
from bench.check import small_config
from bench.errors import Diverged, PlanError
from bench.method import Fitted
from bench.plugins import Plugin, Selected
from bench.rng import generator
from bench.stage import stage
from bench.train.evaluate import Metrics
from bench.train.prepare import Prepared
from bench.train.session import Session

Tensor = torch.Tensor
SMALL: dict[str, Any] = {"members": 3, "interval": 2}
LIMITS = torch.tensor([10.0] * 30 + [9.0] * 24, dtype=torch.float64)


def session_of(small: Prepared, config: PbtConfig, budget: float = 1.0) -> Session:
    selected = Selected(Plugin(Pbt, Path(__file__), ""), config, "pbt", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def training_of(small: Prepared, **options: Any) -> Training:
    """A population after two steps of every member."""
    config = PbtConfig(**SMALL | options)
    session, method = session_of(small, config), Pbt(config)
    strategy = method.strategy(session.task)
    frozen = strategy.start if config.placebo == "uniform" else None
    members = method.members(session, config.members)
    training = method.training(session, members, strategy, frozen)
    training.update(range(2), 10)
    return training


def run(
    small: Prepared, budget: float = 1.0, chance: int = 0, **options: Any
) -> tuple[Session, Fitted]:
    """A run; on request one where chance says what members are worth, so that all take turns."""
    config = PbtConfig(**SMALL | options)
    session, rng = session_of(small, config, budget), generator("chance", chance)
    if chance:
        session.validate = lambda learner: Metrics(  # type: ignore[method-assign]
            *torch.rand(1, generator=rng).tolist(),
            (),
            *torch.rand(2, generator=rng).tolist(),
            True,
        )
    return session, Pbt(config).run(session)


def loss_of(session: Session, fitted: Fitted) -> float:
    """On the validation images, unbilled."""
    with session._meter.harness():
        return session.validate(fitted.learner).nll


def schedule_of(fitted: Fitted) -> Schedule:
    found = schedule_in(fitted.policy)
    assert found is not None
    return found


def series(session: Session, name: str) -> list[Any]:
    return session.trace.export(10_000)[name]["value"]


def bits(member: Member) -> list[Tensor]:
    """Everything that a copy copies: weights, buffers, momentum, in one order."""
    state = member.learner.optimiser.state_dict()["state"]
    momentum = [state[number]["momentum_buffer"] for number in sorted(state)]
    return [*member.learner.network.state_dict().values(), *momentum]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Exploit


def test_the_winner_is_copied_bit_for_bit_and_shares_nothing(small: Prepared) -> None:
    training = training_of(small, sigma=0.5)
    first, winner, last = training.members
    before, genes = [value.clone() for value in bits(winner)], training.genes.clone()
    assert not equal(bits(first), before)
    training.move(torch.tensor([2.0, 1.0, 3.0]))
    for each in training.members:
        assert equal(bits(each), before)
    assert len(before) > 2 * len(list(winner.learner.network.parameters()))  # momentum too
    addresses = [value.data_ptr() for each in training.members for value in bits(each)]
    assert len(set(addresses)) == len(addresses)
    assert torch.equal(training.path, genes[1].expand(3, 1, 54))
    for each, own in zip(training.members, training.genes, strict=True):
        assert torch.equal(each.population.entries, own)
        assert each.population in each.policy.policies  # type: ignore[attr-defined]
    # What one does from now on does not touch the others, and starts from the winner's momentum.
    first.step(training.session, 0.5)
    assert not equal(bits(first), before)
    assert equal(bits(winner), before)
    assert equal(bits(last), before)


def test_pba_copies_the_best_quarter_over_the_worst(small: Prepared) -> None:
    training = training_of(small, variant="pba", members=4)
    training.genes.copy_(torch.arange(4.0)[:, None].expand(4, 54))
    before = [[value.clone() for value in bits(each)] for each in training.members]
    training.move(torch.tensor([2.0, 1.0, 4.0, 3.0]))
    after = [bits(each) for each in training.members]
    for place, source in enumerate([0, 1, 1, 3]):
        assert equal(after[place], before[source])
    genes = training.genes
    assert (genes[[0, 1, 3]] == torch.tensor([0.0, 1.0, 3.0])[:, None]).all()
    assert genes[2].std() > 0  # the copy alone is varied


@pytest.mark.parametrize(("members", "many"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (16, 4)])
def test_quarters_are_disjoint_and_draws_uniform(members: int, many: int) -> None:
    strategy, rng = Quartiles(LIMITS), generator("test")
    losses = torch.randperm(members, generator=rng).double()
    rank = losses.argsort()
    drawn: Counter[int] = Counter()
    for _ in range(400):
        sources, varied = strategy.exploit(losses, rng)
        assert set(varied.nonzero()[:, 0].tolist()) == set(rank[-many:].tolist())
        assert torch.equal(sources[~varied], torch.arange(members)[~varied])
        drawn.update(sources[varied].tolist())
    assert set(drawn) == set(rank[:many].tolist())
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3 or many == 1


def test_the_first_of_equals_wins() -> None:
    strategy = Winner(torch.zeros(54).double(), 1.0)
    sources, varied = strategy.exploit(torch.tensor([3.0, 1.0, 1.0]), generator("test"))
    assert sources.tolist() == [1, 1, 1]
    assert varied.tolist() == [True, True, True]


# Explore


def test_noise_on_lambda_is_normal_and_everybodys_own(small: Prepared) -> None:
    start = torch.linspace(-3, 3, 54, dtype=torch.float64)
    strategy = Winner(start, 0.7)
    noise = (strategy.explore(start.repeat(4000, 1), generator("test")) - start) / 0.7
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert noise.mean(0).abs().max() < 0.07
    assert (noise[1:] * noise[:-1]).mean(0).abs().max() < 0.07
    training = training_of(small)
    winner = training.genes[1].clone()
    training.move(torch.tensor([2.0, 1.0, 3.0]))
    moved = training.genes - winner
    assert (moved.abs().max(1).values > 0.5).all()  # the winner too
    assert torch.unique(moved, dim=0).shape == (3, 54)


def test_members_start_around_the_start(small: Prepared) -> None:
    start = math.log(0.05 / 0.95)
    noise = training_of(small, members=16).genes - start
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert (training_of(small, variant="pba").genes == 0).all()
    assert training_of(small, sigma=0.0).genes.std() == pytest.approx(0, abs=1e-12)


def moved_from(gene: int, most: int) -> list[float]:
    """The probability of every value after PBA's variation."""
    found = [0.2 / (most + 1)] * (most + 1)
    for by in (-3, -2, -1, 0, 0, 1, 2, 3):
        found[min(max(gene + by, 0), most)] += 0.8 / 8
    return found


@pytest.mark.parametrize("gene", [0, 1, 5, 8, 9, 10])
def test_tenths_move_with_pbas_probabilities(gene: int) -> None:
    strategy, rows = Quartiles(LIMITS), 2000
    genes = torch.minimum(torch.full((rows, 54), float(gene)).double(), LIMITS)
    moved = strategy.explore(genes, generator("test", gene))
    for part, most in ((moved[:, :30], 10), (moved[:, 30:], 9)):
        assert (part == part.round()).all()
        counts = torch.bincount(part.flatten().long(), minlength=most + 1)
        expected = torch.tensor(moved_from(min(gene, most), most)) * part.numel()
        # An outer value may be reached by fresh draws alone; none is impossible.
        assert len(counts) == most + 1
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
    same = (moved[:, 1:30] == gene).double() - (moved[:, 1:30] == gene).double().mean()
    other = (moved[:, :29] == gene).double() - (moved[:, :29] == gene).double().mean()
    assert abs(float((same * other).mean())) < 0.01


def test_tenths_are_exact_shares_and_zero_is_never() -> None:
    strategy = Quartiles(LIMITS)
    tenths = torch.arange(11).double()
    assert strategy.entries(tenths).sigmoid().tolist() == pytest.approx(
        (tenths / 10).tolist(), abs=1e-15
    )
    ends = strategy.entries(torch.tensor([0.0, 10.0]).double()).sigmoid()
    assert ends.tolist() == [0.0, 1.0]
    assert strategy.entries(tenths).isfinite().all()
    index = torch.arange(2000)
    for gene, share in ((0.0, 0.0), (10.0, 1.0)):
        genes = torch.full((54,), gene).double()
        policy = Population(pbt.space("pba"), entries=strategy.entries(genes))
        draw = policy.sample(index, generator("test"))
        assert torch.equal(draw.gate.sum(1), draw.limit * int(share))
        assert (draw.level[draw.gate & policy.space.has_magnitude[draw.op]] == share).all()
        assert policy.log_prob(draw).isfinite().all()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_noise_on_weights_is_the_varied_members_own(small: Prepared, noise: float) -> None:
    training = training_of(small, weight_noise=noise)
    network = training.members[1].learner.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training.move(torch.tensor([2.0, 1.0, 3.0]))
    drawn = []
    for each in training.members:
        now = each.learner.network
        for name, value in now.named_buffers():
            assert torch.equal(value, before[name])
        change = [(value - before[name]).flatten() for name, value in now.named_parameters()]
        drawn.append(torch.cat(change).detach().double())
    if noise:
        for one in drawn:
            assert stats.kstest((one / noise).numpy()[:20_000], "norm").pvalue > 1e-3
        assert not torch.equal(drawn[0], drawn[1])
    else:
        assert not any(one.any() for one in drawn)


# Losses


def told(training: Training, *found: tuple[float, float]) -> Tensor:
    """What the training makes of these losses and errors."""
    answers = iter(Metrics(error, (), nll, 0.0, math.isfinite(nll)) for nll, error in found)
    training.session.validate = lambda learner: next(answers)  # type: ignore[method-assign]
    return training.judge()


def test_members_are_compared_by_loss_and_pbas_by_error(small: Prepared) -> None:
    for variant, best in (("hba", 2), ("pba", 0)):
        training = training_of(small, variant=variant)
        losses = told(training, (1.0, 0.2), (2.0, 0.4), (0.5, 0.3))
        assert int(losses.argmin()) == best
        assert training.best is training.members[best]
        assert series(training.session, "best") == [best]
        assert series(training.session, "member_losses") == [[1.0, 2.0, 0.5]]
        assert series(training.session, "member_errors") == [[0.2, 0.4, 0.3]]


def test_a_member_that_diverged_never_wins(small: Prepared) -> None:
    training = training_of(small)
    losses = told(training, (math.nan, 0.0), (2.0, 0.4), (math.inf, 0.1))
    assert losses.tolist() == [math.inf, 2.0, math.inf]
    assert training.best is training.members[1]
    with pytest.raises(Diverged, match="all of them"):
        told(training, (math.nan, 0.1), (math.inf, 0.1), (math.nan, 0.1))


# The plan

prices = st.floats(1e-4, 0.2)


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 20), st.integers(2, 16), prices, prices, st.none() | st.integers(1, 30))
def test_the_plan_fills_the_budget(
    budget: float, members: int, step: float, check: float, interval: int | None
) -> None:
    least = members * ((interval or 1) * step + check)
    if budget < least * (1 - 1e-8):
        with pytest.raises(PlanError, match="do not pay for a round of"):
            affordable(budget, members, step, check, interval)
        return
    plan = affordable(budget, members, step, check, interval)
    steps, rounds = plan["train"] // members, plan["validate"] // members
    assert plan == {"train": members * steps, "validate": members * rounds}
    cost = plan["train"] * step + plan["validate"] * check
    assert cost <= budget * (1 + 1e-8)
    assert cost + members * step > budget * (1 - 1e-8)
    assert steps >= rounds * (interval or 1)
    if interval:
        assert (rounds + 1) * least > budget * (1 - 1e-8)
    else:
        assert rounds == ROUNDS or (rounds < ROUNDS and (rounds + 1) * least > budget)


def test_members_train_in_turn_and_all_is_on_the_bill(small: Prepared) -> None:
    config = PbtConfig(**SMALL)
    session, method = session_of(small, config), Pbt(config)
    members = method.members(session, 3)
    training = method.training(session, members, method.strategy(session.task), None)
    said: list[str] = []
    step, validate = Member.step, session.validate
    shares: list[float] = []

    def steps(each: Member, session: Session, progress: float) -> Tensor:
        if session._meter.ledger.account == "run":
            said.append(str(members.index(each)))
            shares.append(progress)
        return step(each, session, progress)

    def validates(learner: Any) -> Metrics:
        if session._meter.ledger.account == "run":
            said.append("v")
        return validate(learner)

    session.validate = validates  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "step", steps)
        training.train()
    (plan,) = session.plans
    total, rounds = plan["train"] // 3, plan["validate"] // 3
    parts = [(done + 1) * total // rounds - done * total // rounds for done in range(rounds)]
    assert rounds > 2
    assert min(parts) >= 2
    assert max(parts) - min(parts) <= 1
    assert "".join(said) == "".join("0" * n + "1" * n + "2" * n + "vvv" for n in parts)
    # The learning rate of each runs over its own training.
    own = [share for who, share in zip("".join(said).replace("v", ""), shares, strict=True)]
    assert sorted(own) == sorted([done / total for done in range(total)] * 3)
    assert session.tallies["policy_updates"] == rounds - 1
    ledger, cost = session._meter.ledger, session.prices
    calls = {label: item.calls for label, _, item in ledger.items("run")}
    assert calls == {"augment": 3 * total, "train": 3 * total, "validate": 3 * rounds}
    spent = 3 * total * cost["train"] + 3 * rounds * cost["validate"]
    assert ledger.flops("run") / ledger.reference.flops == pytest.approx(spent, rel=1e-9)
    assert 0 <= ledger.budget - ledger.spent < 3 * cost["train"]


def test_pba_has_its_67_rounds_if_it_can(small: Prepared) -> None:
    session, fitted = run(small, 1.0, variant="pba", members=2, interval=None)
    rounds = session.plans[0]["validate"] // 2
    assert 0 < rounds < ROUNDS
    assert f"{rounds} rounds, PBA 67" in fitted.deviations
    assert affordable(100.0, 2, 0.1, 0.1, None)["validate"] == 2 * ROUNDS


def test_too_small_a_budget_is_refused(small: Prepared) -> None:
    with pytest.raises(PlanError, match=r"do not pay for a round of 3 members, .* allow more"):
        run(small, budget=0.1)


# Lineage


def watched(small: Prepared, **options: Any) -> tuple[Session, Fitted, list[Tensor]]:
    """A run, and the genes of all members in every round."""
    found: list[Tensor] = []
    update = Training.update

    def caught(training: Training, *given_: Any) -> None:
        found.append(training.genes.clone())
        update(training, *given_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "update", caught)
        session, fitted = run(small, **options)
    return session, fitted, found


@pytest.mark.parametrize("variant", ["hba", "pba"])
def test_the_schedule_is_what_the_best_member_and_its_ancestors_trained_with(
    small: Prepared, variant: str
) -> None:
    session, fitted, genes = watched(small, chance=2, variant=variant, members=4)
    sources = [[int(one) for one in row] for row in series(session, "sources")]
    assert len(sources) == len(genes) - 1
    at = int(series(session, "best")[-1])
    path = [genes[-1][at]]
    for row, before in zip(reversed(sources), reversed(genes[:-1]), strict=True):
        at = row[at]
        path.insert(0, before[at])
    strategy = Pbt(PbtConfig(variant=variant)).strategy(session.task)
    expected = strategy.entries(torch.stack(path)).round(decimals=4)
    assert torch.equal(schedule_of(fitted).knots, expected)
    assert len(torch.unique(expected, dim=0)) > 2
    # The trace shows the best member's λ.
    bests = [int(one) for one in series(session, "best")]
    shown = torch.tensor(series(session, "probabilities"), dtype=torch.float64)
    held = torch.stack([strategy.entries(g[b]) for g, b in zip(genes, bests, strict=True)])
    torch.testing.assert_close(shown, held.sigmoid()[:, :30])
    assert series(session, "magnitudes")[0][7] is None  # of equalize


def test_a_copys_history_is_its_sources(small: Prepared) -> None:
    training = training_of(small, variant="pba", members=4)
    training.path = torch.arange(4.0).double()[:, None, None].expand(4, 2, 54)
    training.move(torch.tensor([2.0, 1.0, 4.0, 3.0]))
    assert training.path[:, 0, 0].tolist() == [0.0, 1.0, 1.0, 3.0]


def test_long_paths_leave_rounds_out_but_change_none(small: Prepared) -> None:
    method = Pbt(PbtConfig())
    path = torch.arange(250.0).double()[:, None].expand(250, 54)
    knots = method.schedule(small.task, path).knots
    assert len(knots) == KNOTS
    assert knots[[0, -1], 0].tolist() == [1.0, 248.0]
    steps = knots[1:, 0] - knots[:-1, 0]
    assert set(steps.tolist()) == {2.0, 3.0}
    assert len(method.schedule(small.task, path[:67]).knots) == 67


def test_the_schedule_can_be_exported(small: Prepared, tmp_path: Path) -> None:
    _, fitted = run(small, variant="pba")
    made = schedule_of(fitted)
    assert made.knots.min() == -800
    json.dumps(fitted.policy.describe(), allow_nan=False)
    save(fitted.policy.describe(), tmp_path / "policy.json", {})
    read = schedule_in(load(tmp_path / "policy.json").policy)
    assert read is not None
    assert torch.equal(read.knots, made.knots)
    assert read.describe() == made.describe()


# Modes


@pytest.mark.parametrize("options", [{}, {"variant": "pba"}, {"placebo": "uniform"}])
def test_joint_returns_the_best_member(small: Prepared, options: dict[str, Any]) -> None:
    session, fitted, genes = watched(small, **options)
    which = "member_errors" if "variant" in options else "member_losses"
    last = series(session, which)[-1]
    best = int(series(session, "best")[-1])
    assert last[best] == min(last)
    losses = series(session, "member_losses")[-1]
    assert loss_of(session, fitted) == pytest.approx(losses[best])
    strategy = Pbt(PbtConfig(**options)).strategy(session.task)
    end = strategy.entries(genes[-1][best]).round(decimals=4)
    assert torch.equal(schedule_of(fitted).entries, end)


def test_members_differ_and_the_first_pairs_with_other_methods(small: Prepared) -> None:
    config = PbtConfig()
    session, other = session_of(small, config), session_of(small, config)
    members = Pbt(config).members(session, 4)
    plain, batch = other.learner(), next(other.batches("train"))
    assert members[0].learner.digest() == plain.digest()
    assert torch.equal(next(members[0].batches).index, batch.index)
    assert len({member.learner.digest() for member in members}) == 4
    assert len({tuple(next(member.batches).index.tolist()) for member in members[1:]}) == 3


def test_replay_trains_a_fresh_network_under_the_held_schedule(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, str, Tensor]] = []
    step = Member.step

    def caught(each: Member, session: Session, progress: float) -> Tensor:
        if session._meter.ledger.account == "run" and len(session.plans) == 2:
            (schedule, *_) = each.policy.policies  # type: ignore[attr-defined]
            seen.append((schedule.entries.clone(), each.learner.digest(), schedule.knots))
        return step(each, session, progress)

    monkeypatch.setattr(Member, "step", caught)
    session, fitted = run(small, 2.0, mode="replay", search=0.6, variant="pba")
    searched, trained = session.plans
    made, many = schedule_of(fitted), len(seen)
    assert trained == {"train": many}
    fresh = session_of(small, PbtConfig()).learner()
    assert seen[0][1] == fresh.digest()
    for done, (entries, _, knots) in enumerate(seen):
        assert torch.equal(knots, made.knots)
        assert torch.equal(entries, made.knots[int(done / many * len(knots))])
    assert torch.equal(made.entries, made.knots[-1])
    assert len(made.knots) == searched["validate"] // 3
    ledger, cost = session._meter.ledger, session.prices
    search = searched["train"] * cost["train"] + searched["validate"] * cost["validate"]
    assert search + many * cost["train"] == pytest.approx(ledger.spent, rel=1e-6)
    assert search / ledger.budget == pytest.approx(0.6, abs=0.05)
    assert ledger.spent / ledger.budget > 0.97
    assert any("0.6 of the budget searches" in text for text in fitted.deviations)


@pytest.mark.parametrize("mode", ["joint", "replay"])
def test_milestones_are_of_what_will_be_returned(small: Prepared, mode: str) -> None:
    """In `joint` of the best member after every round, in `replay` not of the search."""
    config = PbtConfig(**SMALL, mode=mode)
    session = session_of(small, config)
    seen: list[tuple[Any, float]] = []
    session._observe = lambda learner, share: seen.append((learner, share))
    fitted = Pbt(config).run(session)
    rounds = len(series(session, "best"))
    count = rounds if mode == "joint" else session.plans[1]["train"]
    assert [share for _, share in seen] == [(done + 1) / count for done in range(count)]
    assert seen[-1][0] is fitted.learner
    if mode == "joint":
        places = [who for who, _ in seen]
        bests = series(session, "best")
        assert len(set(map(id, places))) == len(set(bests)) > 1
        assert [places[0] is who for who in places] == [bests[0] == best for best in bests]


def test_a_run_can_be_repeated(small: Prepared) -> None:
    for options in ({}, {"variant": "pba", "mode": "replay"}, {"weight_noise": 0.01}):
        (_, one), (_, two) = (run(small, **options) for _ in range(2))
        assert one.learner.digest() == two.learner.digest()
        assert one.policy.describe() == two.policy.describe()


# Placebos


@pytest.mark.parametrize("variant", ["hba", "pba"])
def test_uniform_copies_weights_and_keeps_the_start(small: Prepared, variant: str) -> None:
    real, _ = run(small, variant=variant)
    session, fitted, genes = watched(small, variant=variant, placebo="uniform")
    assert session.plans == real.plans
    assert session._meter.ledger.spent == real._meter.ledger.spent
    assert session.tallies["policy_updates"] == 0
    start = Pbt(PbtConfig(variant=variant)).strategy(session.task).start
    assert all(torch.equal(one, start.repeat(3, 1)) for one in genes)
    assert len(schedule_of(fitted).knots) == len(genes)
    assert len(series(session, "sources")) == len(series(real, "sources"))
    training = training_of(small, variant=variant, placebo="uniform")
    training.move(torch.tensor([2.0, 1.0, 3.0]))
    copied = int(series(training.session, "sources")[0][2])
    digests = [member.learner.digest() for member in training.members]
    assert digests[2] == digests[copied]
    assert copied != 2


def test_shuffled_copies_somebody_and_is_otherwise_the_same(small: Prepared) -> None:
    real, placebo = training_of(small), training_of(small, placebo="shuffled")
    assert torch.equal(real.genes, placebo.genes)
    start = real.genes.clone()
    losses = torch.tensor([2.0, 1.0, 3.0])
    real.move(losses)
    placebo.move(losses)
    own = int(series(placebo.session, "sources")[0][0])
    noise = real.genes - start[1]  # the same noise, around another member
    torch.testing.assert_close(placebo.genes, start[own] + noise)
    for _ in range(300):
        placebo.move(losses)
        real.move(losses)
    drawn = Counter(int(row[0]) for row in series(placebo.session, "sources"))
    assert set(drawn) == {0, 1, 2}
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3
    assert {int(row[0]) for row in series(real.session, "sources")} == {1}


def test_shuffled_still_ends_with_the_best(small: Prepared) -> None:
    real, _ = run(small)
    session, fitted = run(small, placebo="shuffled")
    assert session.plans == real.plans
    assert session.tallies == real.tallies
    losses = series(session, "member_losses")[-1]
    assert loss_of(session, fitted) == pytest.approx(min(losses))


@pytest.mark.parametrize("mode", ["joint", "replay"])
@pytest.mark.parametrize("variant", ["hba", "pba"])
def test_the_replay_placebo_trains_under_the_mean(
    small: Prepared, mode: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[Tensor] = []
    train = Training.train

    def caught(training: Training, *given_: Any, **more: Any) -> Tensor:
        paths.append(train(training, *given_, **more))
        return paths[-1]

    monkeypatch.setattr(Training, "train", caught)
    session, fitted = run(small, 1.0, 1, mode=mode, variant=variant, placebo="replay")
    mean = paths[0].mean(0)
    strategy = Pbt(PbtConfig(variant=variant)).strategy(session.task)
    knots = schedule_of(fitted).knots
    expected = strategy.entries(mean).round(decimals=4)
    assert torch.equal(knots, expected.expand(len(knots), 54))
    assert (mean - strategy.start).abs().max() > 0.2
    rounds = session.plans[0]["validate"] // 3
    assert session.tallies["policy_updates"] == rounds - 1  # of the search alone
    assert set(session.plans[1]) == ({"train", "validate"} if mode == "joint" else {"train"})


# Options


def test_options_change_what_they_name(small: Prepared) -> None:
    ends = {
        name: run(small, 0.8, **options)[1].learner.digest()
        for name, options in {
            "default": {},
            "variant": {"variant": "pba"},
            "members": {"members": 2},
            "interval": {"interval": 5},
            "sigma": {"sigma": 0.5},
            "start": {"start": 0.2},
            "weights": {"weight_noise": 0.01},
            "cutout": {"cutout": False},
        }.items()
    }
    assert len(set(ends.values())) == len(ends)


@pytest.mark.parametrize("option", ["sigma", "start", "weight_noise"])
def test_pba_has_no_use_for_hbas_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0.3 is of variant=hba"):
        PbtConfig(variant="pba", **{option: 0.3})


def test_minimum_counts_members_validations_and_training(small: Prepared) -> None:
    def least(**options: Any) -> float:
        return Pbt(PbtConfig(**options)).minimum(small.task)

    task = small.task
    check = len(task.val) / 3 / task.recipe.batch_size  # in steps
    once = 4 * (1 + check / 20)
    assert least() == pytest.approx(once)
    assert least(members=2, interval=10) == pytest.approx(2 * (1 + check / 10))
    assert least(variant="pba") == pytest.approx(4 * (1 + 67 * check / task.recipe.steps))
    assert least(mode="replay") == pytest.approx(2 * once)
    assert least(mode="replay", search=0.9) == pytest.approx(10)
    assert least(placebo="replay", search=0.25) == pytest.approx(4 * once)


def test_the_start_is_hbas_and_pbas(small: Prepared) -> None:
    strategy = Pbt(PbtConfig(variant="pba")).strategy(small.task)
    assert isinstance(strategy, Quartiles)
    assert torch.equal(strategy.most, LIMITS)
    for variant, value in (("hba", 0.05), ("pba", 0.0)):
        policy = Pbt(PbtConfig(variant=variant)).policy(small.task)
        (population, *_) = policy.policies  # type: ignore[attr-defined]
        probabilities, shares = population.values()
        assert probabilities.tolist() == pytest.approx([value] * 30)
        assert shares[~shares.isnan()].tolist() == pytest.approx([value] * 24)
        parts = [part["policy"] for part in policy.describe()["of"]]
        assert parts == ["population", "crop-flip", "cutout"]
