"""Static hypernetworks for any convolutional network."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.func import functional_call

from hypernets.static import StaticHypernetwork


class GeneratedConvolutions(nn.Module):
    """A network of yours whose convolution kernels a static hypernetwork generates.

        network = GeneratedConvolutions(torchvision.models.resnet18(), filter_size=3)
        logits = network(images)  # trains as any other module

    The convolutions that fit are those with filters of the given size, without channel groups and with channels that
    the basic kernel divides; the others (a stem on three channels, 1x1 shortcuts), biases, batch norm and all else
    stay as they are, learned. The kernels of all layers are generated at once at the top of each forward pass.

    Args:
        main_network: the network; its chosen kernels are replaced in place.
        filter_size: height and width of the filters to generate.
        basic_channels, embedding_size, projection_size: see `StaticHypernetwork`.
        choose: called with the name and the module of each convolution that fits; False leaves it learned.

    Attributes:
        main_network: the network given, without the kernels that are now generated.
        hypernetwork: the `StaticHypernetwork`.
        names: the parameter name of each generated kernel in the main network.

    Raises:
        ValueError: no convolution fits.
    """

    def __init__(
        self,
        main_network: nn.Module,
        filter_size: int | tuple[int, int] = 3,
        basic_channels: tuple[int, int] = (16, 16),
        embedding_size: int = 64,
        projection_size: int = 64,
        choose: Callable[[str, nn.Conv2d], bool] = lambda name, convolution: True,
    ) -> None:
        super().__init__()
        size = (filter_size, filter_size) if isinstance(filter_size, int) else tuple(filter_size)
        n_in, n_out = basic_channels
        chosen = {
            name: module
            for name, module in main_network.named_modules()
            if isinstance(module, nn.Conv2d)
            and (module.kernel_size, module.groups) == (size, 1)
            and module.in_channels % n_in == module.out_channels % n_out == 0
            and choose(name, module)
        }
        if not chosen:
            raise ValueError(
                f"No convolution of the network has {size[0]}x{size[1]} filters and channels that {n_in} and {n_out} "
                "divide; choose another filter_size or other basic_channels."
            )
        weight = next(iter(chosen.values())).weight
        shapes = [tuple(module.weight.shape) for module in chosen.values()]
        hypernetwork = StaticHypernetwork(shapes, basic_channels, embedding_size, projection_size)
        for module in chosen.values():
            module.register_parameter("weight", None)
        self.main_network = main_network
        self.hypernetwork = hypernetwork.to(weight.device, weight.dtype)
        self.names = [f"{name}.weight" if name else "weight" for name in chosen]

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the main network with the generated kernels in their places."""
        kernels = dict(zip(self.names, self.hypernetwork(), strict=True))
        return functional_call(self.main_network, kernels, arguments, keywords)
