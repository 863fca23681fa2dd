"""Image classification: a convolutional main network, with or without a hypernetwork (sections 4.1 and 4.2)."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_images
from data.images import ImageSplits
from hypernets import HyperDNN, UserError
from hypernets.errors import call_with_settings, require_number, without
from models import IMAGE_CLASSIFIERS
from models.hypernetworks import generate_weights, require_no_condition
from training.distributed import Processes
from training.task import Metric, build_within_memory
from training.tasks.kernel_pictures import kernel_picture

# In pictures; as many as the paper's widest network has. One of 512 by 512 filters would be 8,196 pixels wide.
SHOWN_CHANNELS = 128

OF_ANY_SIZE = ("wide_resnet", "torchvision")  # main networks that read images of any size


class ImageClassification(nn.Module):
    """Cross-entropy on images, with the paper's L2 penalty on the kernels (A.3.2).

    The penalty is kernel_decay / 2 times the squared norm of all convolution kernels *as the main network uses them*,
    learned or generated. Its gradient on a learned kernel is what an optimizer's weight decay would add; on a generated
    kernel it goes on to the embeddings and the generator, which are not themselves penalised. The network, images
    [B, C, H, W] -> logits, is a `HyperDNN` or a plain module.
    """

    metric = Metric("error", "error", digits=2, unit=" %")

    def __init__(self, network: nn.Module, kernel_decay: float) -> None:
        super().__init__()
        require_number("main_net.kernel_decay", kernel_decay, least=0)
        self.network = network
        self.kernel_decay = kernel_decay

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]), cross-entropy in nats plus the penalty."""
        images, labels = batch
        if isinstance(self.network, HyperDNN):
            generated = self.network.weights()
            logits = self.network.forward_with(generated, images)
        else:
            generated, logits = {}, self.network(images)
        loss = F.cross_entropy(logits, labels)
        if self.kernel_decay:
            kernels = self.kernels(generated).values()
            loss = loss + 0.5 * self.kernel_decay * sum(kernel.square().sum() for kernel in kernels)
        return loss, carried

    def compile(self) -> None:
        """Compile the pass for each size of batch that comes, of which there are two at most (`dataset.small_size`)."""
        super().compile(dynamic=False)

    def kernels(self, generated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All convolution kernels of the main network by name, learned and generated."""
        main_network = self.network.main_network if isinstance(self.network, HyperDNN) else self.network
        weights = {**dict(main_network.named_parameters()), **generated}
        return {name: weight for name, weight in weights.items() if weight.dim() == 4}

    def pictures(self) -> dict[str, np.ndarray]:
        """The first, middle and last kernel, uint8 [H, W, 3] (Figures 2, 12, 13), not counting the stem's and 1x1."""
        with torch.no_grad():
            generated = self.network.weights() if isinstance(self.network, HyperDNN) else {}
        shown = [
            (name.removesuffix(".weight"), kernel)
            for name, kernel in sorted(self.kernels(generated).items(), key=_in_order)
            if kernel.shape[1] > 3 and kernel.shape[2] > 1
        ]
        chosen = {0, len(shown) // 2, len(shown) - 1} if shown else set()
        return {
            f"kernels/{name}": kernel_picture(kernel[:SHOWN_CHANNELS, :SHOWN_CHANNELS])
            for name, kernel in (shown[index] for index in sorted(chosen))
        }

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return {"loss": mean cross-entropy in nats, "error": error in percent} over all batches."""
        was_training = self.training
        self.eval()
        # Loss, errors, examples: on the device until the end, so that no batch waits for a transfer.
        sums = torch.zeros(3, dtype=torch.float64, device=next(self.parameters()).device)
        try:
            for images, labels in batches:
                logits = self.network(images).float()
                loss = F.cross_entropy(logits, labels, reduction="sum").double()
                errors = (logits.argmax(dim=1) != labels).sum().double()
                sums += torch.stack([loss, errors, torch.full_like(loss, len(labels))])
        finally:
            self.train(was_training)
        loss, errors, examples = total(sums).tolist()
        return {"loss": loss / examples, self.metric.key: 100 * errors / examples}


def _in_order(named: tuple[str, Tensor]) -> list[str | int]:
    """Sort blocks.2 before blocks.10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", named[0])]


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits, ImageClassification]:
    """Build the splits and the task from the settings of a run."""
    dataset = without(settings["dataset"], "task", "name")
    if dataset.get("small_size") is not None and settings["main_net"]["kind"] not in OF_ANY_SIZE:
        raise UserError(
            f"dataset.small_size is {dataset['small_size']}, but main_net={settings['main_net']['kind']} reads images "
            "of one size; set dataset.small_size=null and dataset.small_steps=0."
        )
    with processes.first_before_others():  # so that one process downloads
        splits = build_images(dataset, seed=settings["seed"], any_size=True, **vars(processes))
    torch.manual_seed(settings["seed"])
    network = build_network(settings, splits.image_shape, splits.num_classes)
    kernel_decay = settings["main_net"].get("kernel_decay", 0.0)
    task = ImageClassification(network, kernel_decay).to(memory_format=torch.channels_last)  # as the images
    shapes = network.shapes if isinstance(network, HyperDNN) else {}
    if kernel_decay and not task.kernels({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}):
        name = settings["main_net"]["name"]
        raise UserError(f"main_net.kernel_decay is {kernel_decay}, but {name} has no convolution kernels; set it to 0.")
    return splits, task


def build_network(settings: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network, images [B, C, H, W] -> logits [B, num_classes], from the settings of a run."""
    main_net = without(settings["main_net"], "kernel_decay")  # of this task
    build_main_network = main_network_builder({**settings, "main_net": main_net}, image_shape, num_classes)
    require_no_condition(settings["hypernet"])
    return generate_weights(build_within_memory(build_main_network), settings["hypernet"])


def main_network_builder(
    settings: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int
) -> Callable[[], nn.Module]:
    """Return the function that builds the main network which the settings of a run describe."""
    kind = settings["main_net"]["kind"]
    if kind not in IMAGE_CLASSIFIERS:
        raise UserError(
            f"The main network {kind!r} does not classify images, which the data set {settings['dataset']['name']!r} "
            f"holds; choose main_net={' or main_net='.join(IMAGE_CLASSIFIERS)}."
        )
    main_net = without(settings["main_net"], "kind", "name")
    return partial(call_with_settings, IMAGE_CLASSIFIERS[kind], "main_net", main_net, image_shape, num_classes)
