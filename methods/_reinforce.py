"""What REINFORCE does to rewards before they weigh log-probabilities."""

import torch

from bench.errors import Diverged

Tensor = torch.Tensor
SAME = 1e-12  # deviations below this share of the size are rounding


def standardised(rewards: Tensor) -> Tensor:
    """Rewards (B,) with mean 0 and unbiased deviation 1; zeros if they are all the same.

    Raises:
        Diverged: If one is not finite: the policy would stay lost.
    """
    _finite(rewards)
    centred = rewards - rewards.mean()
    deviation = (centred.square().sum() / max(1, len(rewards) - 1)).sqrt()
    return _over(centred, deviation, rewards.abs().max())


def shuffled(weights: Tensor, rng: torch.Generator) -> Tensor:
    """The same weights (B,), each given to an example at random: the placebo's signal."""
    return weights[torch.randperm(len(weights), generator=rng)]


class Running:
    """Standardises single rewards by what came before, of which older ones count less.

    What a reward is compared with does not depend on it, so the estimate stays unbiased.

    Args:
        decay: The weight of the past at every step; 0.95 remembers about 20 rewards.
    """

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = decay
        self.moments = torch.zeros(3, dtype=torch.float64)  # weight, and weighted sums of r and r²

    def standardise(self, reward: Tensor) -> Tensor:
        """The reward () less the running mean, over the running deviation; 0 at first.

        Raises:
            Diverged: If it is not finite.
        """
        _finite(reward)
        weight, total, squares = self.moments.clone()
        self.moments.mul_(self.decay)
        self.moments += torch.stack([torch.ones_like(reward), reward, reward**2])
        if weight <= 1:  # one reward has no deviation
            return torch.zeros_like(reward)
        mean = total / weight
        variance = (squares / weight - mean**2).clamp_min(0)
        # A difference of squares has half the digits.
        return _over(reward - mean, variance.sqrt(), mean.abs() * SAME**-0.5)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments, for `session.keep`."""
        return {"moments": self.moments.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the moments back."""
        self.moments.copy_(state["moments"])


def _over(centred: Tensor, deviation: Tensor, size: Tensor) -> Tensor:
    """Differences over a deviation, or zeros if that is rounding beside values of this size."""
    if deviation <= SAME * size or deviation == 0:
        return torch.zeros_like(centred)
    return centred / deviation


def _finite(rewards: Tensor) -> None:
    if not rewards.isfinite().all():
        raise Diverged("a reward is not finite: the training has diverged")
