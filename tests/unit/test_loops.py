"""The loops' loss: the default as ever, AugMix's, and what each costs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench.augment.augmix import AugMix
from bench.augment.mixing import CutMix, Mixup
from bench.augment.policy import Batch, Chain, Identity
from bench.augment.spaces import space
from bench.check import Trial, small_config, trial
from bench.method import Fitted, Method
from bench.stage import stage
from bench.train.learner import Learner
from bench.train.loops import fit, training_step
from bench.train.losses import Loss, consistency, cross_entropy, jensen_shannon
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import Task, standard
from tests.contract.conftest import selected
from tests.contract.test_cheats import method_of

Make = Callable[..., Session]


@pytest.fixture
def make(small: Prepared) -> Make:
    """Sessions on the small task."""

    def session(budget: float = 2.0) -> Session:
        chosen = selected(method_of(lambda *_: None))
        return stage(small, small_config(chosen, budget)).session

    return session


def augmix(task: Task) -> Chain:
    return Chain(standard(task), AugMix(space("augmix")))


def with_views(batch: Batch, count: int = 2) -> Batch:
    views = tuple(batch.images.flip(-1).float() + i for i in range(count))
    return replace(batch, views=views)


def test_the_default_is_the_learner_s_cross_entropy_bit_for_bit(make: Make) -> None:
    digests = []
    for by_hand in (False, True):
        session = make()
        learner, batches = session.learner(), session.batches("train")
        policy = standard(session.task)
        for step in range(4):
            if by_hand:
                batch = next(batches)
                batch = policy.apply(batch, policy.sample(batch.index, session.rng("policy")))
                with session.metered("train"):
                    learner.descend(learner.loss(batch.images, batch.targets), step / 4)
            else:
                training_step(session, learner, policy, batches, step / 4)
        digests.append(learner.digest())
    assert digests[0] == digests[1]


def test_views_that_the_loss_would_ignore_are_an_error(make: Make) -> None:
    session = make()
    learner = session.learner()
    with pytest.raises(ValueError, match=r"2 views .* loss=consistency\(\)"):
        fit(session, learner, augmix(session.task))
    with pytest.raises(ValueError, match="gives none"):
        fit(session, learner, standard(session.task), loss=consistency())


def test_a_loss_of_one_s_own_is_minimised_and_logged(make: Make) -> None:
    session, seen = make(), []

    def smoothed(learner: Learner, batch: Batch) -> torch.Tensor:
        seen.append(len(batch))
        return F.cross_entropy(learner(batch.images), batch.targets, label_smoothing=0.1)

    learner, other = session.learner(), make()
    assert fit(session, learner, Identity(), steps=5, loss=smoothed) == 5
    assert seen == [32] * 6  # and one rehearsal
    plain = other.learner()
    fit(other, plain, Identity(), steps=5)
    assert learner.digest() != plain.digest()
    trace = [one.trace.export()["train_loss"] for one in (session, other)]
    assert trace[0] != trace[1]


def original(learner: Learner, batch: Batch) -> torch.Tensor:
    """As in google-research/augmix, cifar.py."""
    logits = learner(torch.cat([batch.images.float(), *batch.views]))
    clean, one, two = torch.split(logits, len(batch))
    loss = F.cross_entropy(clean, batch.targets)
    views = [F.softmax(view, dim=1) for view in (clean, one, two)]
    mixture = torch.clamp(sum(views) / 3.0, 1e-7, 1).log()
    return loss + 12 * sum(F.kl_div(mixture, p, reduction="batchmean") for p in views) / 3.0


def gradients(make: Make, loss: Loss, soft: bool = False) -> tuple[float, list[torch.Tensor]]:
    session = make()
    learner, batch = session.learner(), next(session.batches("train"))
    if soft:
        batch = replace(batch, targets=F.one_hot(batch.targets, 10).float())
    with session.metered("train"):
        value = loss(learner, with_views(batch))
        value.backward()
    found = [p.grad for p in learner.network.parameters()]
    return value.item(), [one for one in found if one is not None]


@pytest.mark.parametrize("soft", [False, True])
def test_consistency_is_the_original_loss(make: Make, soft: bool) -> None:
    found, expected = gradients(make, consistency(), soft), gradients(make, original)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for one, two in zip(found[1], expected[1], strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-6)


def test_without_weight_it_is_the_cross_entropy_of_the_images(make: Make) -> None:
    session = make()
    learner, batch = session.learner(), with_views(next(session.batches("train")), 3)
    learner.network.eval()  # in training, batch normalisation would see the views
    with session.metered("loss"):
        found = consistency(0.0)(learner, batch)
    with session.metered("plain"):
        plain = cross_entropy(learner, replace(batch, views=()))
    with session.metered("apart"):
        logits = torch.stack([learner(images) for images in (batch.images, *batch.views)])
    assert torch.allclose(found, plain, rtol=1e-5)
    with session.metered("loss"):
        whole = consistency(5.0)(learner, batch)
    assert torch.allclose(whole, plain + 5 * jensen_shannon(logits), rtol=1e-5)


def test_two_views_cost_three_times_a_step(make: Make) -> None:
    session = make(budget=3.0)
    policy = augmix(session.task)
    planned = fit(session, session.learner(), policy, loss=consistency())
    assert session.prices["train"] == pytest.approx(3 / 60)
    assert planned == 60
    assert session.remaining == pytest.approx(0, abs=1e-9)
    assert session.tallies["images_seen"] == 60 * 32


@pytest.mark.parametrize("kind", ["augmix", "mixup", "cutmix"])
def test_the_bill_of_mixing_is_the_count(small: Prepared, kind: str) -> None:
    """One FLOP counter around the whole run, rehearsals included."""

    class Mixed(Method):
        name = "mixed"

        def run(self, session: Session) -> Fitted:
            task, learner = session.task, session.learner()
            policy = {
                "augmix": augmix(task),
                "mixup": Chain(standard(task), Mixup(1.0, task.classes)),
                "cutmix": Chain(standard(task), CutMix(1.0, task.classes, 0.5)),
            }[kind]
            loss = consistency() if kind == "augmix" else cross_entropy
            fit(session, learner, policy, loss=loss)
            return Fitted(learner, policy)

    chosen = selected(Mixed)
    done: Trial = trial(chosen, small, small_config(chosen))
    assert done.bill_error == 0
    assert done.stage.session.tallies["steps"] == (40 if kind == "augmix" else 120)
    assert done.hygienic
