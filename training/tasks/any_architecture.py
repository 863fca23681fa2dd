"""One set of weights for MLPs of many depths and widths: described by a hypernetwork, or sliced from the largest."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from data.build import build_images
from data.images import ImageSplits
from hypernets import HyperDNN, UserError
from hypernets.errors import call_with_settings, require_whole, without
from models import mlp
from models.hypernetworks import generate_weights, require_no_condition
from training.distributed import Processes
from training.task import Metric

Size = tuple[int, int]  # hidden layers, and their width


class Slices(nn.Module):
    """The control: an MLP of depth d and width w is the corner of the largest one, and its last layer the last."""

    def __init__(self, largest: mlp.MLP) -> None:
        super().__init__()
        self.largest = largest

    def weights(self, condition: None, main_network: mlp.MLP) -> dict[str, Tensor]:
        """Return name -> corner of the largest network's tensor."""
        layers = [*self.largest.layers[: len(main_network.layers) - 1], self.largest.layers[-1]]
        return {
            name: getattr(layers[int(name.split(".")[1])], name.split(".")[2])[tuple(map(slice, parameter.shape))]
            for name, parameter in main_network.named_parameters()
        }


class AnyArchitecture(nn.Module):
    """Cross-entropy of a network whose size changes from step to step; the metric is the mean error over all sizes.

    The sizes of `held_out` are never trained.
    """

    metric = Metric("error", "error", digits=2, unit=" %")

    def __init__(self, network: HyperDNN | Slices, empty: Callable[[Size], mlp.MLP], sizes: Mapping[str, list[Size]]):
        super().__init__()
        self.network = network
        self.sizes, self.held_out = sizes["trained"], sizes["held_out"]
        with torch.device("meta"):  # their weights are generated
            self._empty = {size: empty(size) for size in (*self.sizes, *self.held_out)}

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]) for a size drawn from the step's random numbers."""
        images, labels = batch
        size = self.sizes[int(torch.randint(len(self.sizes), ()))]
        return F.cross_entropy(self._network(size)(images), labels), carried

    def _network(self, size: Size) -> Callable[[Tensor], Tensor]:
        weights = self.network.weights(None, main_network=self._empty[size])
        return lambda images: functional_call(self._empty[size], weights, (images,))

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return loss in nats and errors in percent.

        loss, error              means over the sizes that are trained
        error_held_out           mean over the sizes that are held out
        error_3x128 ...          of the networks of 3 hidden layers of 128 units
        """
        was_training = self.training
        self.eval()
        networks = {size: self._network(size) for size in (*self.sizes, *self.held_out)}
        sums = torch.zeros(len(networks), 3, dtype=torch.float64, device=next(self.parameters()).device)
        try:
            for images, labels in batches:
                for index, network in enumerate(networks.values()):
                    logits = network(images).float()
                    loss = F.cross_entropy(logits, labels, reduction="sum")
                    wrong = (logits.argmax(dim=1) != labels).sum()
                    sums[index] += torch.stack([loss, wrong, loss.new_tensor(len(labels))])
        finally:
            self.train(was_training)
        sums = total(sums)
        losses, errors = (sums[:, 0] / sums[:, 2]).tolist(), (100 * sums[:, 1] / sums[:, 2]).tolist()
        trained = len(self.sizes)
        values = {"loss": float(np.mean(losses[:trained])), "error": float(np.mean(errors[:trained]))}
        values["error_held_out"] = float(np.mean(errors[trained:]))
        return values | {f"error_{d}x{w}": error for (d, w), error in zip(networks, errors, strict=True)}

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def read_sizes(depths: list[int], widths: list[int], held_out: list[list[int]]) -> dict[str, list[Size]]:
    """All pairs of a depth and a width but those that are held out, and these, which may be others too."""
    for name, sizes in (("depths", depths), ("widths", widths), ("held_out", held_out)):
        if not isinstance(sizes, list):
            raise UserError(f"dataset.{name} is {sizes!r}; it must be a list.")
    if not all(isinstance(size, list) and len(size) == 2 for size in held_out):
        raise UserError(f"dataset.held_out is {held_out}; it must be pairs of a depth and a width, such as [[3,128]].")
    for name, sizes in (("depths", depths), ("widths", widths), ("held_out", sum(held_out, []))):
        for size in sizes:
            require_whole(f"dataset.{name}", size)
    held_out = [(depth, width) for depth, width in held_out]
    trained = [(depth, width) for depth in depths for width in widths if (depth, width) not in held_out]
    if not trained or not held_out:
        raise UserError(
            f"dataset.depths is {depths}, dataset.widths is {widths} and dataset.held_out is {held_out}; there must be "
            "pairs of a depth and a width to train, and others to hold out."
        )
    return {"trained": trained, "held_out": held_out}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits, AnyArchitecture]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    of_sizes = {key: settings["dataset"].get(key) for key in ("depths", "widths", "held_out")}
    sizes = call_with_settings(read_sizes, "dataset", of_sizes)
    left_out = ("task", "name", *of_sizes)
    dataset = without(settings["dataset"], *left_out)
    splits = build_images(dataset, seed=settings["seed"], **vars(processes))
    main_net, hypernet = settings["main_net"], settings["hypernet"]
    if main_net["kind"] != "mlp" or hypernet["kind"] not in ("none", "described"):
        raise UserError(
            f"Networks of many sizes are main_net=mlp with hypernet=described or hypernet=none, not {main_net['kind']} "
            f"with {hypernet['kind']}."
        )
    shapes = splits.image_shape, splits.num_classes
    torch.manual_seed(settings["seed"])
    require_no_condition(hypernet)
    if main_net.get("dropout"):
        raise UserError(f"main_net.dropout is {main_net['dropout']}, but here networks have none; set it to 0.")
    largest = call_with_settings(mlp.build, "main_net", without(main_net, "kind", "name"), *shapes)
    if hypernet["kind"] == "none":
        units = main_net["hidden_units"]
        for depth, width in (*sizes["trained"], *sizes["held_out"]):
            if depth > len(units) or width > min(units):
                raise UserError(
                    f"An MLP of {depth} hidden layers of {width} units is no corner of that of main_net.hidden_units, "
                    f"which is {units}; make that one larger, or choose hypernet=described."
                )
        own = without(hypernet, "kind", "name", "condition")
        network = call_with_settings(lambda: Slices(largest), "hypernet", own)
    else:
        network = generate_weights(largest, hypernet)
    return splits, AnyArchitecture(network, lambda size: mlp.build(*shapes, size[0] * [size[1]]), sizes)
