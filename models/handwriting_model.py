"""The handwriting model of section 4.5: a recurrent layer that reads pen offsets and predicts the next one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.recurrent_model import RecurrentModel, layer_and_dropout

MIXTURES = 20  # bivariate Gaussians
OUTPUTS = 6 * MIXTURES + 1  # weight, two means, two standard deviations and correlation of each; end of stroke


class HandwritingModel(RecurrentModel):
    """From offsets [T, B, 3] (dx, dy, end of stroke), the parameters [T, B, 121] of the next one's distribution.

    The printed parameter counts say the rest: the layer reads the three numbers as they are, only the lowest cell of a
    stack reads them, and the output reads only the topmost (the networks of Graves 2013, which the paper follows
    otherwise, also have connections that skip layers).

    The offsets are normalised (data/strokes.py). Their mean and standard deviation are part of the state, so that you
    can draw what a saved model writes without its data set.

    Args: those of `RecurrentModel`, with two arguments in place of its sizes:
        mean, std: of dx and dy over the training split.
    """

    def __init__(
        self,
        make_recurrent_layer: Callable[[int], nn.Module],
        mean: Sequence[float],
        std: Sequence[float],
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__(make_recurrent_layer, 3, OUTPUTS, input_dropout, output_dropout)
        self.register_buffer("offset_mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("offset_std", torch.tensor(std, dtype=torch.float32))

    def read_out(self, output: Tensor) -> Tensor:
        """Turn the output of the recurrent layer [..., H] into the parameters [..., 121], in float32."""
        with torch.autocast(output.device.type, enabled=False):  # means of three digits would be coarser than a pen
            return self.output(output.to(self.output.weight.dtype))


def build(
    main_net: Mapping[str, Any], hypernet: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
) -> HandwritingModel:
    """Build the model from the configuration groups main_net and hypernet; both have a `kind`."""
    make_layer, dropout = layer_and_dropout(main_net, hypernet)
    return HandwritingModel(make_layer, mean, std, **dropout)
