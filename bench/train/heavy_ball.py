"""Heavy-ball SGD whose rate, momentum and weight decay may differ from step to step.

For methods that search the optimiser's schedule: all of them train by `heavy_ball_step`, so that
they differ in what they find, not in what they do with it.
"""

from collections.abc import Iterator

import torch

from bench.augment.policy import Batch, Policy
from bench.train.learner import Learner
from bench.train.loops import augment
from bench.train.session import Session

Tensor = torch.Tensor


class HeavyBall:
    """Plain SGD with heavy-ball momentum and weight decay that differ from step to step.

    v ← β v + g + μ θ, θ ← θ - α v.  torch's own keeps no v while the momentum is 0, and would lag
    by a step when it rises.
    """

    def __init__(self, learner: Learner) -> None:
        self.weights: list[Tensor] = [p for p in learner.network.parameters() if p.requires_grad]
        self.velocity = [torch.zeros_like(p) for p in self.weights]

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float) -> None:
        """One step along the gradients that are there, which it drops."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.weights]
        torch._foreach_mul_(self.velocity, momentum)
        torch._foreach_add_(self.velocity, gradients)
        torch._foreach_add_(self.velocity, self.weights, alpha=decay)
        torch._foreach_add_(self.weights, self.velocity, alpha=-rate)
        for weight in self.weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """v by number, for `session.keep`."""
        return {str(i): v for i, v in enumerate(self.velocity)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts it back."""
        for i, v in enumerate(self.velocity):
            v.copy_(state[str(i)])


def heavy_ball_step(
    session: Session,
    learner: Learner,
    ball: HeavyBall,
    policy: Policy,
    batches: Iterator[Batch],
    setting: tuple[float, float, float],
    rng: torch.Generator | None = None,
) -> Tensor:
    """One step of a training on one augmented batch.

    Args:
        session: Meters it.
        learner: Is trained.
        ball: Its optimiser.
        policy: Augments.
        batches: Gives the images.
        setting: Rate, momentum and decay.
        rng: What the policy draws from, for trials; the stream `policy` by default, which pairs
            with other methods'.

    Returns:
        The batch's mean loss, detached, on the device.
    """
    batch = augment(session, policy, next(batches), rng)
    with session.metered("train"):
        loss = learner.loss(batch.images, batch.targets)
        loss.backward()
        ball.step(*setting)
    session.tally(steps=1, images_seen=len(batch))
    return loss.detach()
