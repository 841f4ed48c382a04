"""What a training step minimises: functions of a learner and an augmented batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench.augment.policy import Batch
from bench.train.learner import Learner

Loss = Callable[[Learner, Batch], torch.Tensor]
LEAST = 1e-7  # of a mixture's probability, so that its logarithm stays small


def cross_entropy(learner: Learner, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the images against their targets, classes or shares.

    Raises:
        ValueError: If the batch has views: they would be made, paid for and ignored.
    """
    if batch.views:
        raise ValueError(
            f"the policy gives {len(batch.views)} views that cross-entropy would ignore: train "
            "with a loss that uses them, e.g. fit(..., loss=consistency())"
        )
    return learner.loss(batch.images, batch.targets)


def consistency(weight: float = 12.0) -> Loss:
    """AugMix's loss: cross-entropy of the images plus a penalty on disagreement with their views.

    The network runs once on images and views together, so batch normalisation sees all of them.

    Args:
        weight: Of the Jensen-Shannon divergence, in nats.

    Returns:
        A loss; it raises ValueError for a batch without views.

    Source: Hendrycks et al. 2020, equation 1; google-research/augmix, cifar.py.
    """

    def loss(learner: Learner, batch: Batch) -> torch.Tensor:
        if not batch.views:
            raise ValueError("consistency() compares views, and the policy gives none")
        together = torch.cat([batch.images.float(), *(view.float() for view in batch.views)])
        logits = learner(together).view(1 + len(batch.views), len(batch), -1)
        return F.cross_entropy(logits[0], batch.targets) + weight * jensen_shannon(logits)

    return loss


def jensen_shannon(logits: torch.Tensor) -> torch.Tensor:
    """Mean divergence between the predictions for each image's views.

    The mean over views of KL(view | mixture of the views), the mixture's probabilities being at
    least `LEAST`.  Unlike `F.kl_div`, its gradient is finite where a softmax underflows to 0.

    Args:
        logits: (V, B, K).

    Returns:
        A scalar in nats, 0 (but for `LEAST`) to log V.
    """
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    mixture = p.mean(0).clamp(LEAST, 1).log()
    return (p * (log_p - mixture)).sum(-1).mean()
