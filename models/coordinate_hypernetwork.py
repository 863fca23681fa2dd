"""From the place of a weight to its value: the hypernetwork of appendix A.1, after HyperNEAT (Figure 8).

Shape legend
    K           axes of the generated tensors, and so coordinates of a weight
    W           weights to generate
    U           units of a hidden layer
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import require_whole


class CoordinateHypernetwork(nn.Module):
    """A ReLU network that maps the coordinates of each weight to its value.

    A weight's coordinates are its indices along the axes of its tensor, from -1 to 1 along each. The paper's network
    has layers of 4, 25, 25 and 1 units and 801 parameters.

    Initialisation. The hidden layers start as those of He et al., but with biases drawn too: with biases of zero, all
    units of the first layer would bend at the centre of the image and of the grid, and most of the generated weights
    would differ only in their scale. The last layer is then rescaled, and its bias set, such that the generated weights
    have the mean and the standard deviation that the main network's own weights have now. So the signals of the main
    network start with the variance that its initialisation intends.

    Args:
        parameters: {name: tensor}, all with the same number of axes.
        hidden_sizes: the units of each hidden layer.

    Raises:
        UserError: tensors with different numbers of axes, or no or bad hidden sizes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], hidden_sizes: Sequence[int] = (25, 25)) -> None:
        super().__init__()
        if not isinstance(hidden_sizes, Sequence) or isinstance(hidden_sizes, str) or not hidden_sizes:
            raise UserError(f"hidden_sizes is {hidden_sizes!r}; it must be a list of sizes, such as [25,25].")
        for size in hidden_sizes:
            require_whole("Each of hidden_sizes", size)
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        axes = {len(shape) for shape in self.shapes.values()}
        if len(axes) != 1:
            named = ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
            raise UserError(
                f"The tensors to generate have different numbers of axes ({named}), so their weights have no common "
                "coordinates; choose tensors of one kind."
            )
        sizes = [axes.pop(), *hidden_sizes, 1]
        self.layers = nn.ModuleList(nn.Linear(c_in, c_out) for c_in, c_out in zip(sizes, sizes[1:], strict=False))
        self.reset_parameters(torch.cat([parameter.detach().flatten() for parameter in parameters.values()]))

    @torch.no_grad()
    def reset_parameters(self, like: Tensor) -> None:
        """Draw the parameters anew, so that the generated weights have the mean and the deviation of `like`."""
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.uniform_(layer.bias, -1, 1)
        last = self.layers[-1]
        nn.init.zeros_(last.bias)
        generated = torch.cat([self._generate(shape).flatten() for shape in self.shapes.values()])
        last.weight.mul_(like.std() / generated.std())
        last.bias.fill_(like.mean() - generated.mean() * like.std() / generated.std())

    def forward(self, condition: None = None) -> dict[str, Tensor]:
        """Return {name: generated tensor}. The coordinates never change, so a condition is refused."""
        if condition is not None:
            raise UserError("A coordinate hypernetwork takes no condition: leave it out, or use another hypernetwork.")
        # In full precision, as in static.py: rounded to three digits, neighbours in the image would be too much alike.
        with torch.autocast(self.layers[0].weight.device.type, enabled=False):
            return {name: self._generate(shape) for name, shape in self.shapes.items()}

    def _generate(self, shape: tuple[int, ...]) -> Tensor:
        first, *others = self.layers
        # The first layer is linear in each coordinate: what an axis adds is computed once for each of its places,
        # instead of for each of the W weights.
        features = first.bias
        for axis, size in enumerate(shape):
            places = torch.linspace(-1, 1, size, dtype=first.weight.dtype, device=first.weight.device)
            features = features.unsqueeze(-2) + places[:, None] * first.weight[:, axis]  # [..., size, U]
        features = features.flatten(0, -2)  # [W, U]
        for layer in others:
            features = layer(F.relu(features))
        return features.view(shape)
