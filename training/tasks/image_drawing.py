"""Images as networks: from an image, or a few of its pixels, the weights of a network that draws it.

Shape legend
    B  images in a batch
    P  pixels of an image
    M  pixels that are shown
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.build import build_images
from data.images import ImageSplits
from data.upload import upload
from hypernets import UserError
from hypernets.errors import call_with_settings, require_known, require_whole, without
from models import coordinate_mlp
from models.conditioned_networks import ConcatenatedCode, GeneratedNetworks
from models.encoders import MeanEncoder, VectorEncoder
from models.hypernetworks import condition_size_of
from training.distributed import Processes
from training.task import Metric

CHECKED = 200  # images of which the condition is shuffled
DRAWN = 8  # in the picture


class ImageDrawing(nn.Module):
    """Mean squared error of all pixels of an image, drawn by the network that its encoding gives.

    Pixels have variance 1 over the data set, so 1 is the error of a constant image. With `shown_pixels`, only so many
    pixels at random are encoded, as a set of (row, column, value).
    """

    metric = Metric("mse", "mean squared error", digits=4)

    def __init__(self, network: GeneratedNetworks | ConcatenatedCode, height: int, width: int, shown: int | None):
        super().__init__()
        if shown is not None:
            require_whole("dataset.shown_pixels", shown)
            if shown > height * width:
                raise UserError(f"dataset.shown_pixels is {shown}, but the images have only {height * width} pixels.")
        self.network, self.shown = network, shown
        axes = (torch.linspace(-1, 1, size) for size in (height, width))
        self.register_buffer("places", torch.cartesian_prod(*axes), persistent=False)  # [P, 2]
        self._examples: tuple[Tensor, Tensor] | None = None

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode images [B, 1, H, W]; the pixels that are shown are drawn by the generator."""
        if self.shown is None:
            return self.network.encoder(images)
        scores = upload(torch.rand(len(images), len(self.places), generator=generator), images.device)
        chosen = scores.topk(self.shown).indices  # [B, M]
        values = images.flatten(1).gather(1, chosen)
        return self.network.encoder(torch.cat([self.places[chosen], values[:, :, None]], dim=2))

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of images [B, 1, H, W]; their labels are not used."""
        images = batch[0].contiguous()
        drawn = self.network(self.places, self.encode(images))
        return (drawn.squeeze(2).float() - images.flatten(1)).square().mean(), carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the error; on some images, also with the codes of others, and with the mean of all codes."""
        was_training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(0)
        squares = torch.zeros(2, dtype=torch.float64, device=self.places.device)
        checks: dict[str, float] = {}
        try:
            for images, _ in batches:
                images = images.contiguous()
                codes, pixels = self.encode(images, generator), images.flatten(1)
                drawn = self.network(self.places, codes).squeeze(2).float()
                mse = (drawn - pixels).square().mean(dim=1)
                squares += torch.stack([mse.sum(), mse.new_tensor(len(mse))])
                if checks:
                    continue
                self._examples = pixels[:DRAWN].cpu(), drawn[:DRAWN].cpu()

                def error(codes: Tensor, pixels: Tensor = pixels[:CHECKED]) -> float:
                    return (self.network(self.places, codes).squeeze(2).float() - pixels).square().mean().item()

                checks = self.network.check(error, codes[:CHECKED])
        finally:
            self.train(was_training)
        total_of_squares, count = total(squares).tolist()
        mse = total_of_squares / count
        return {"loss": mse, "mse": mse} | checks

    def pictures(self) -> dict[str, np.ndarray]:
        """Some images of the last evaluation, and below them what was drawn."""
        if self._examples is None:
            return {}
        return {"drawings": side_by_side(self._examples, int(self.places[:, 0].unique().numel()))}


def side_by_side(rows: Iterable[Tensor], height: int, scale: int = 3) -> np.ndarray:
    """Rows of images [N, P] as one picture, uint8 [H, W, 3], from the least value, black, to the largest."""
    grid = torch.cat([torch.cat(list(row.unflatten(1, (height, -1))), dim=1) for row in rows])
    low, high = grid.min(), grid.max()
    grey = ((grid - low) / (high - low).clamp_min(1e-6) * 255).round().to(torch.uint8)
    return grey.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[:, :, None].expand(-1, -1, 3).numpy()


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits, ImageDrawing]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    left_out = ("task", "name", "shown_pixels")
    dataset = without(settings["dataset"], *left_out)
    splits = build_images(dataset, seed=settings["seed"], **vars(processes))
    channels, height, width = splits.image_shape
    if channels != 1 or settings["main_net"]["kind"] != "coordinate_mlp":
        raise UserError("Drawings are of grey images, by main_net=coordinate_mlp; choose those.")
    shown, hypernet = settings["dataset"].get("shown_pixels"), settings["hypernet"]
    size = condition_size_of(hypernet, "data")
    main_net = without(settings["main_net"], "kind", "name")
    network = partial(call_with_settings, coordinate_mlp.build, "main_net", main_net, 2)
    torch.manual_seed(settings["seed"])
    if hypernet.get("condition_is_set"):
        encoder = nn.Identity()  # the attention body reads the pixels themselves
    else:
        encoder = VectorEncoder(height * width, size) if shown is None else MeanEncoder(3, size)
    if hypernet["kind"] == "none":
        require_known("hypernet", without(hypernet, "kind", "name"), ("condition", "condition_size"))
        conditioned = ConcatenatedCode(network(size), encoder)
    else:
        conditioned = GeneratedNetworks(network(0), hypernet, encoder)
    return splits, ImageDrawing(conditioned, height, width, shown)
