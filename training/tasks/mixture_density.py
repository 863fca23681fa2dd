"""The mixture density output of section 4.5: where the pen goes next, as 20 bivariate Gaussians (Graves 2013, 4.1).

Everything is in log space. The positions of a pen are whole numbers, some offsets are frequent (one in a hundred is
zero), and a density has no upper bound: a component that collapses onto such an offset would lower the loss without
limit. The standard deviations and correlations are therefore bounded.

Shape legend
    M        components of the mixture
    ...      any axes, such as [T, B]: time steps, lines
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# In units of the normalised offsets; IAM-OnDB's smallest step is about 0.025.
SMALLEST_STD, LARGEST_STD = 0.01, 100.0
LARGEST_CORRELATION = 0.99


class Mixture(NamedTuple):
    """The distribution of the next (dx, dy, end of stroke)."""

    log_weights: Tensor  # [..., M]
    means: Tensor  # [..., 2, M], of dx and dy
    log_stds: Tensor  # [..., 2, M]
    correlations: Tensor  # [..., M]
    end_logit: Tensor  # [...], of the probability that the stroke ends


def mixture(outputs: Tensor) -> Mixture:
    """Turn the outputs of a network [..., 6 M + 1] into a mixture (Graves 2013, Eq. 18-22), within the bounds above."""
    end_logit, parameters = outputs[..., 0], outputs[..., 1:].unflatten(-1, (6, -1))
    return Mixture(
        log_weights=parameters[..., 0, :].log_softmax(-1),
        means=parameters[..., 1:3, :],
        log_stds=parameters[..., 3:5, :].clamp(math.log(SMALLEST_STD), math.log(LARGEST_STD)),
        correlations=LARGEST_CORRELATION * parameters[..., 5, :].tanh(),
        end_logit=end_logit,
    )


def negative_log_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return -log p(target) in nats, [...] (Graves 2013, Eq. 23-26).

    Args:
        outputs: of the network, [..., 6 M + 1].
        targets: what came next, [..., 3]: dx and dy, normalised, and 1 if the stroke ends there, otherwise 0.
    """
    log_weights, means, log_stds, correlations, end_logit = mixture(outputs)
    x, y = ((targets[..., :2, None] - means) * (-log_stds).exp()).unbind(-2)  # in standard deviations, [..., M]
    rest = 1 - correlations.square()
    exponent = (x.square() + y.square() - 2 * correlations * x * y) / (2 * rest)
    log_density = -math.log(2 * math.pi) - log_stds.sum(-2) - 0.5 * rest.log() - exponent
    return F.binary_cross_entropy_with_logits(end_logit, targets[..., 2], reduction="none") - torch.logsumexp(
        log_weights + log_density, dim=-1
    )


def draw(outputs: Tensor, bias: float, generator: torch.Generator) -> Tensor:
    """Draw the next (dx, dy, end of stroke), [3], from the outputs [6 M + 1], both on the CPU.

    A bias above 0 prefers likely offsets (Graves 2013, section 5.4): it narrows the components and sharpens the choice
    among them. The end of a stroke is drawn without it.
    """
    log_weights, means, log_stds, correlations, end_logit = mixture(outputs)
    # nan_to_num: a model that has diverged writes noise, and it is for its loss to say so.
    weights = ((1 + bias) * log_weights).nan_to_num().softmax(-1)
    chosen = int(torch.multinomial(weights, 1, generator=generator))
    first, second = torch.randn(2, generator=generator)
    correlation = correlations[chosen]
    noise = torch.stack([first, correlation * first + (1 - correlation.square()).sqrt() * second])
    offset = means[:, chosen] + (log_stds[:, chosen] - bias).exp() * noise
    ends = torch.rand((), generator=generator) < end_logit.sigmoid()
    return torch.cat([offset.nan_to_num(), ends.to(offset.dtype)[None]])
