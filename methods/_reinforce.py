"""What REINFORCE does to rewards before they weigh log-probabilities."""

import torch

Tensor = torch.Tensor


def standardised(rewards: Tensor) -> Tensor:
    """Rewards (B,) with mean 0 and unbiased deviation 1; zeros if they are all the same."""
    centred = rewards - rewards.mean()
    return centred / rewards.std().clamp_min(torch.finfo(rewards.dtype).tiny)


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
        """The reward () less the running mean, over the running deviation; 0 at first."""
        weight, total, squares = self.moments.clone()
        self.moments.mul_(self.decay)
        self.moments += torch.stack([torch.ones_like(reward), reward, reward**2])
        if weight <= 1:  # one reward has no deviation
            return torch.zeros_like(reward)
        mean = total / weight
        variance = squares / weight - mean**2
        return (reward - mean) / variance.sqrt().clamp_min(1e-12 * mean.abs())

    def state_dict(self) -> dict[str, Tensor]:
        """The moments, for `session.keep`."""
        return {"moments": self.moments.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the moments back."""
        self.moments.copy_(state["moments"])
