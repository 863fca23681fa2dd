"""Any network, with weights that a hypernetwork generates."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hypernets.errors import UserError


class HyperDNN(nn.Module):
    """A main network, some or all of whose parameters a hypernetwork generates.

        network = HyperDNN(resnet18(num_classes=10), StaticHypernetwork, choose=tileable_kernels(3))
        logits = network(images)  # trains like any other module

    The main network is a plain module that knows nothing about the hypernetwork. Its chosen parameters are removed. In
    each forward pass the hypernetwork first generates all of them once, and they stay in place for the duration of the
    call. Everything else (other parameters, buffers such as the statistics of batch norm) stays in the main network
    and is learned as usual.

    Args:
        main_network: the network; its chosen parameters are removed in place.
        hypernetwork: called with the chosen parameters, {name: parameter}; returns a module that maps a condition, or
            None, to {name: tensor} for all these names. A class will do, or
            `functools.partial(StaticHypernetwork, embedding_size=32)`.
        choose: called with the name and the value of each parameter; whether it is to be generated. All by default.

    Attributes:
        names: every name of each generated parameter; a parameter that modules share has several.

    Raises:
        UserError: no parameter is chosen, or the hypernetwork cannot generate one that is.
    """

    def __init__(
        self,
        main_network: nn.Module,
        hypernetwork: Callable[[Mapping[str, nn.Parameter]], nn.Module],
        choose: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True,
    ) -> None:
        super().__init__()
        chosen = {name: parameter for name, parameter in main_network.named_parameters() if choose(name, parameter)}
        if not chosen:
            of = ", ".join(f"{name} {list(p.shape)}" for name, p in list(main_network.named_parameters())[:3])
            raise UserError(
                f"No parameter of the main network was chosen, so there is nothing to generate (it has {of or 'none'}, "
                "...); make `choose` true for some of them."
            )
        like = next(iter(chosen.values()))
        generator = hypernetwork(chosen).to(like.device, like.dtype)  # before anything is removed: it may refuse
        self.shapes = {name: parameter.shape for name, parameter in chosen.items()}
        self.names: dict[str, list[str]] = {name: [] for name in chosen}
        name_of = {parameter: name for name, parameter in chosen.items()}
        for name, parameter in list(main_network.named_parameters(remove_duplicate=False)):
            if parameter in name_of:
                self.names[name_of[parameter]].append(name)
                module, _, attribute = name.rpartition(".")
                main_network.get_submodule(module).register_parameter(attribute, None)
        self.main_network = main_network
        self.hypernetwork = generator

    def weights(self, condition: Tensor | None = None) -> dict[str, Tensor]:
        """Generate the chosen parameters: {name: tensor}, each with the shape that the main network had."""
        return self.hypernetwork(condition)

    def forward(self, *inputs: Any, condition: Tensor | None = None, **keywords: Any) -> Any:
        """Call the main network with the weights that the hypernetwork generates."""
        return self.forward_with(self.weights(condition), *inputs, **keywords)

    def forward_with(self, weights: Mapping[str, Tensor], *inputs: Any, **keywords: Any) -> Any:
        """Call the main network with these weights, as `weights()` returned them.

        For a loss that needs the weights too, such as a penalty on them: they are then generated only once. A weight
        whose shape differs from that of the parameter it replaces raises ValueError.
        """
        for name, shape in self.shapes.items():
            if weights[name].shape != shape:  # one that broadcasts would be taken without a word
                raise ValueError(f"{name} was generated with the shape {list(weights[name].shape)}, not {list(shape)}.")
        placed = {alias: weights[name] for name, aliases in self.names.items() for alias in aliases}
        # Shared parameters are in `placed` under all their names: no search for them in every pass.
        return functional_call(self.main_network, placed, inputs, keywords, tie_weights=False)
