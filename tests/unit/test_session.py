"""The session: initial weights, batches, prices, rehearsals, plans, slices."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bench.augment.policy import Batch, Identity
from bench.check import small_config
from bench.errors import PlanError
from bench.networks import build
from bench.stage import stage
from bench.train.learner import Learner
from bench.train.loops import fit, training_step
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import standard
from tests.contract.conftest import selected
from tests.contract.test_cheats import method_of

Make = Callable[..., Session]


@pytest.fixture
def make(small: Prepared) -> Make:
    """Sessions on the small task."""

    def session(budget: float = 2.0, seed: int = 0, **options: object) -> Session:
        chosen = selected(method_of(lambda *_: None))
        config = small_config(chosen, budget).model_copy(update={"seed": seed, **options})
        return stage(small, config).session

    return session


def step_of(session: Session, learner: Learner) -> Callable[[], torch.Tensor]:
    batches, policy = session.batches("train"), standard(session.task)
    return lambda: training_step(session, learner, policy, batches, 0.0)


def test_kth_learner_has_the_kth_initialisation(make: Make) -> None:
    one, two = make(), make()
    two.rng("policy").manual_seed(5)  # what else a method draws does not matter
    digests = [one.learner().digest() for _ in range(3)]
    assert digests == [two.learner().digest() for _ in range(3)]
    assert len(set(digests)) == 3
    assert make(seed=1).learner().digest() not in digests


def test_own_network_shares_the_plain_part(make: Make) -> None:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            plain = build("small-cnn", 10, 1, 8)
            self.conv1, self.norm1, self.head = plain.conv1, plain.norm1, nn.Linear(3, 10)
            self.extra = nn.Parameter(torch.full((4,), 7.0))

    plain, own = make().learner().network, make().learner(Hyper).network
    assert torch.equal(plain.conv1.weight, own.conv1.weight)
    assert torch.equal(own.extra, torch.full((4,), 7.0))
    assert own.head.weight.shape == (10, 3)  # another shape keeps its own values


def test_batches_are_equal_across_methods_and_calls_differ(make: Make) -> None:
    one, two = make(), make()
    two.rng("policy"), two.batches("val")
    first, again = one.batches("train"), two.batches("train")
    second = one.batches("train")
    for _ in range(40):  # past the end of an epoch
        batch, other = next(first), next(again)
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.images, other.images)
        assert len(batch) == 32
    assert not torch.equal(next(first).index, next(second).index)


def test_a_rehearsal_leaves_no_trace(make: Make) -> None:
    session = make()
    learner, kept = session.learner(), torch.zeros(3, requires_grad=True)
    session.keep(table=kept)
    step = step_of(session, learner)

    def rehearsed() -> None:
        loss = step()
        with torch.no_grad():
            kept.add_(1.0)
        session.log(loss=loss)
        session.learner()
        torch.rand(3)
        torch.rand(3, generator=session.rng("policy"))

    rng, digest = torch.get_rng_state(), learner.digest()
    price = session.price("train", rehearsed)
    assert price == pytest.approx(1 / 60)
    assert learner.digest() == digest
    assert learner.optimiser.state_dict()["state"] == {}
    assert kept.tolist() == [0.0] * 3
    assert torch.equal(torch.get_rng_state(), rng)
    assert session.tallies["steps"] == 0
    assert session.trace.export() == {}
    assert session.remaining == 2.0
    assert session.learner().digest() == second_learner(make())


def second_learner(session: Session) -> str:
    session.learner()
    return session.learner().digest()


def test_training_is_the_same_with_and_without_rehearsal(make: Make) -> None:
    digests = []
    for rehearse in (False, True):
        session = make()
        learner = session.learner()
        step = step_of(session, learner)
        step()  # optimiser state exists by now
        if rehearse:
            session.price("train", step)
        for _ in range(3):
            step()
        digests.append(learner.digest())
    assert digests[0] == digests[1]


def test_fit_fills_the_budget_exactly_and_anneals_to_its_end(make: Make) -> None:
    session = make(budget=1.5)
    learner = session.learner()
    assert fit(session, learner, standard(session.task)) == 90
    assert session.tallies["steps"] == 90
    assert session.tallies["images_seen"] == 90 * 32
    assert session.remaining == pytest.approx(0, abs=1e-9)
    assert session.plans == [{"train": 90}]
    rate = learner.optimiser.param_groups[0]["lr"]
    assert 0 < rate < 1e-3 * session.task.recipe.lr


def test_fit_stops_at_the_steps_it_is_given(make: Make) -> None:
    session = make()
    assert fit(session, session.learner(), Identity(), steps=25) == 25
    assert session.remaining == pytest.approx(2 - 25 / 60)


def test_fit_inside_a_slice_takes_the_slice(make: Make) -> None:
    session = make()
    with session.slice(0.25):
        fit(session, session.learner(), standard(session.task))
    assert session.tallies["steps"] == 30
    assert session.remaining == pytest.approx(1.5)


def test_a_replayed_plan_is_followed(make: Make, small: Prepared) -> None:
    chosen = selected(method_of(lambda *_: None))
    session = stage(small, small_config(chosen)).session
    session._replay = [{"train": 7}]
    assert fit(session, session.learner(), Identity()) == 7
    with pytest.raises(PlanError, match="more plans"):
        session.plan(train=1)


def test_validate_is_billed_and_leaves_the_mode(make: Make) -> None:
    session = make()
    learner = session.learner()
    metrics = session.validate(learner)
    assert 0.5 < metrics.error <= 1
    assert learner.network.training
    assert session.remaining < 2


def test_clone_is_independent_and_equal(make: Make) -> None:
    session = make()
    learner = session.learner()
    step_of(session, learner)()
    twin = learner.clone()
    assert twin.digest() == learner.digest()
    step_of(session, twin)()
    assert twin.digest() != learner.digest()
    momentum = [s["momentum_buffer"] for s in twin.optimiser.state.values()]
    assert len(momentum) == len(list(twin.network.parameters()))


def test_soft_targets_train_too(make: Make) -> None:
    session = make()
    learner, batch = session.learner(), next(session.batches("train"))
    soft = Batch(batch.images, torch.full((32, 10), 0.1), batch.index)
    with session.metered("train"):
        loss = learner.loss(soft.images, soft.targets)
    hard = -torch.log_softmax(torch.zeros(10), 0)[0]
    assert loss.item() > hard.item() - 1e-3  # uniform targets: at least log 10


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_impossible_slices_are_refused(make: Make, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        make().slice(fraction)


def test_a_free_step_cannot_be_afforded(make: Make) -> None:
    with pytest.raises(ValueError, match="for ever"):
        make().afford(0.0)


def test_a_rehearsal_puts_clones_back_too(make: Make) -> None:
    session = make()
    learner = session.learner()
    twin = learner.clone()
    digest = twin.digest()
    session.price("train", step_of(session, twin))
    assert twin.digest() == digest


def test_broadcasting_the_best_shares_nothing(make: Make) -> None:
    session = make()
    best, other = session.learner(), session.learner()
    step_of(session, best)()
    other.load_state_dict(best.state_dict())
    digest = other.digest()
    momentum = [s["momentum_buffer"].clone() for s in other.optimiser.state.values()]
    step_of(session, best)()
    assert other.digest() == digest
    now = [s["momentum_buffer"] for s in other.optimiser.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momentum, now, strict=True))


def test_a_clone_keeps_its_parameter_groups(make: Make) -> None:
    learner = make().learner()
    decayed, free = list(learner.network.parameters())[:3], list(learner.network.parameters())[3:]
    learner.optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}], lr=0.5
    )
    twin = learner.clone()
    assert [group["weight_decay"] for group in twin.optimiser.param_groups] == [0.1, 0.0]
    owned = {id(p) for p in twin.network.parameters()}
    assert {id(p) for g in twin.optimiser.param_groups for p in g["params"]} == owned


def test_modes_survive_validation_and_rehearsal(make: Make) -> None:
    session = make()
    learner = session.learner()
    learner.network.norm1.eval()  # e.g. frozen statistics
    session.validate(learner)
    session.price("train", step_of(session, learner))
    assert not learner.network.norm1.training
    assert learner.network.norm2.training


def test_a_validation_that_runs_out_of_budget_leaves_training_mode(make: Make) -> None:
    session = make(budget=0.01)
    learner = session.learner()
    with session.slice(1.0):
        for _ in range(20):
            session.validate(learner)
    assert learner.network.training
    assert session.remaining == 0


def test_a_recipe_of_the_methods_own(make: Make) -> None:
    session = make()
    recipe = session.task.recipe.model_copy(update={"lr": 0.7, "momentum": 0.0})
    learner = session.learner(recipe=recipe)
    assert learner.digest() == make().learner().digest()
    step_of(session, learner)()
    assert learner.optimiser.param_groups[0]["lr"] == 0.7
    assert learner.clone().recipe is recipe


def test_an_unpriced_label_cannot_be_planned(make: Make) -> None:
    with pytest.raises(PlanError, match="trian"):
        make().plan(trian=5)


def test_nested_tensors_are_kept(make: Make) -> None:
    session = make()
    learner, tangents = session.learner(), {"z": torch.zeros(2), "rest": [torch.zeros(3)]}
    session.keep(tangents=tangents, own=torch.Generator())
    step = step_of(session, learner)

    def moved() -> None:
        step()
        tangents["z"].add_(1)
        tangents["rest"][0].add_(1)

    session.price("train", moved)
    assert tangents["z"].tolist() == [0, 0]
    assert tangents["rest"][0].tolist() == [0, 0, 0]


def test_batches_of_a_subset(make: Make) -> None:
    session = make()
    subset = session.task.train.subset(torch.arange(40))
    indices = torch.cat([next(b).index for b in [session.batches(subset, size=20)] for _ in "ab"])
    assert sorted(indices.tolist()) == list(range(40))
