"""Images: whole splits in memory, batches that are pure functions of (seed, step).

Nothing here has state that a checkpoint would have to hold. Shuffling, cropping and flipping use CPU generators
seeded by (seed, epoch) or (seed, step), so every device gets the same batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from data import draws
from data.upload import upload
from hypernets.errors import UserError, require_whole


def draw_validation(num_examples: int, validation_size: int, split_seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the training examples held out for validation, at random, not by class (sections 4.1, 4.2).

    Return the indices of the remaining training examples and of the validation examples, both int64 and sorted. They
    depend only on the arguments, not on the seed of the training, so that runs share their splits.
    """
    require_whole("validation_size", validation_size)
    require_whole("split_seed", split_seed, least=0)
    if validation_size >= num_examples:
        raise UserError(
            f"validation_size is {validation_size}, but the training set has only {num_examples} images; "
            f"hold out at most {num_examples - 1}."
        )
    order = torch.randperm(num_examples, generator=draws.generator(split_seed, draws.SPLIT, 0)).numpy()
    return np.sort(order[validation_size:]), np.sort(order[:validation_size])


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of uint8 [N, H, W, C] images: float64 [C], scale 0 to 1.

    A constant channel gets standard deviation 1, so that dividing by it is harmless.
    """
    # Integer sums over some images at a time: exact, and without a wider copy of the whole split.
    total = np.zeros(images.shape[-1], dtype=np.int64)
    total_of_squares = np.zeros_like(total)
    for start in range(0, len(images), 256):
        pixels = images[start : start + 256].astype(np.int64)
        total += pixels.sum(axis=(0, 1, 2))
        total_of_squares += (pixels * pixels).sum(axis=(0, 1, 2))
    count = images.size // images.shape[-1]
    mean = total / count
    std = np.sqrt(np.maximum(total_of_squares / count - mean**2, 0.0))
    return mean / 255, np.where(std > 0, std / 255, 1.0)


class ImageBatches:
    """One split, held whole as uint8 on a device.

    Args:
        images: uint8 [N, H, W, C].
        labels: integers [N].
        mean, std: one number per channel, on the scale 0 to 1; batches are (image / 255 - mean) / std.
        batch_size: examples in a training batch over all ranks, a multiple of their number; None for a split that
            is only evaluated.
        padding: black pixels added on each side before a crop of the original size. The paper pads CIFAR-10
            by 2 to 36x36 (A.3.2) and MNIST by 1 to 30x30 (A.3.1); the wide ResNet paper pads by 4.
        flip: whether half of the training images are mirrored left to right.
        small_size, small_steps: the first `small_steps` training batches are shrunk to small_size x small_size pixels,
            which saves time where the network takes images of any size.
        seed: with the step, determines a training batch completely.
        device: where the split is held and batches are made.
        rank, world_size: this process's place in data-parallel training.

    Attributes:
        num_examples: examples in the split, over all ranks.
        steps_per_epoch: full batches in an epoch; 0 for a split that is only evaluated.
        examples_per_step: `batch_size`.
        image_shape: (C, H, W).
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int | None = None,
        padding: int = 0,
        flip: bool = False,
        small_size: int | None = None,
        small_steps: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(
                f"Images must be uint8 [N, H, W, C] with N labels, not {images.dtype} {list(images.shape)} "
                f"with {len(labels)} labels."
            )
        _, height, width, channels = images.shape
        if padding > min(height, width):
            raise UserError(
                f"padding is {padding}, more than the images' {height}x{width} pixels; set it to at most "
                f"{min(height, width)}."
            )
        if batch_size is not None and batch_size > len(images):
            raise UserError(
                f"batch_size is {batch_size}, but the training split has only {len(images)} images; "
                f"choose a batch_size of at most {len(images)}."
            )

        self.num_examples = len(images)
        self.examples_per_step = batch_size
        self.steps_per_epoch = 0 if batch_size is None else self.num_examples // batch_size
        self.image_shape = (channels, height, width)

        self._device = torch.device(device)
        self._padding, self._flip, self._seed = padding, flip, seed
        self._small_size, self._small_steps = small_size, small_steps
        self._rank, self._world_size = rank, world_size
        on_device = torch.tensor(images).to(self._device)
        self._padded = F.pad(on_device, (0, 0, padding, padding, padding, padding)) if padding else on_device
        self._labels = torch.tensor(labels, dtype=torch.int64).to(self._device)
        self._mean = torch.tensor(255 * np.asarray(mean), dtype=torch.float32, device=self._device)
        self._std = torch.tensor(255 * np.asarray(std), dtype=torch.float32, device=self._device)
        self._rows = torch.arange(height, device=self._device)
        self._columns = torch.arange(width, device=self._device)
        self._epoch_order: tuple[int, torch.Tensor] | None = None

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's part of training batch `step` (0, 1, ...), randomly cropped and flipped, normalised.

        Images, float32 [B, C, H, W] in channels-last memory layout, and labels, int64 [B], both on the device, with
        B = batch_size / world_size. The ranks' parts, concatenated in rank order, are exactly the batch of a single
        process. An epoch's last, incomplete batch is left out.
        """
        example, top, left, flip = upload(self.draw(step), self._device)
        rows = top[:, None] + self._rows
        columns = left[:, None] + torch.where(flip[:, None] == 1, self._columns.flip(0), self._columns)
        images = self._padded[example[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = self._normalised(images)
        if step < self._small_steps:
            images = F.interpolate(images, size=2 * (self._small_size,), mode="bilinear", antialias=True)
        return images, self._labels[example]

    def draw(self, step: int) -> torch.Tensor:
        """The random numbers behind this rank's part of training batch `step`, int64 [4, B] on the CPU.

        They are the index of the example in the split, first row and first column of the crop in the padded image
        (0 to 2 * padding), and whether to mirror the crop (0 or 1).
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        size = self.examples_per_step
        # Drawn for the whole batch on every rank, so that the numbers do not depend on the number of ranks.
        generator = draws.generator(self._seed, draws.STEP, step)
        examples = self._order(epoch)[position * size : (position + 1) * size]
        corners = torch.randint(2 * self._padding + 1, (2, size), generator=generator)
        flips = torch.randint(2 if self._flip else 1, (size,), generator=generator)
        share = size // self._world_size
        return torch.stack((examples, *corners, flips))[:, self._rank * share : (self._rank + 1) * share]

    def evaluation_batches(self, batch_size: int | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's share of the split, once and in order, normalised but neither cropped nor flipped.

        Batches are like those of `batch`, with B = `batch_size` on this rank; the last may be smaller. By default it
        is 500 for images of up to 32x32 pixels, and fewer for larger ones. Shares are contiguous and differ by at most
        one example; together they are the whole split. Ranks can therefore differ by one in their number of batches:
        reduce over ranks after the loop, not within it.
        """
        first = self.num_examples * self._rank // self._world_size
        end = self.num_examples * (self._rank + 1) // self._world_size
        if batch_size is None:
            _, height, width = self.image_shape
            batch_size = max(1, min(500, 500 * 32 * 32 // (height * width)))
        rows, columns = (slice(self._padding, self._padding + size) for size in self.image_shape[1:])
        for start in range(first, end, batch_size):
            stop = min(start + batch_size, end)
            yield self._normalised(self._padded[start:stop, rows, columns]), self._labels[start:stop]

    def _order(self, epoch: int) -> torch.Tensor:
        # Kept only to save a shuffle per step; for another epoch it is made anew from (seed, epoch).
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = draws.generator(self._seed, draws.EPOCH, epoch)
            self._epoch_order = (epoch, torch.randperm(self.num_examples, generator=generator))
        return self._epoch_order[1]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        # uint8 [B, H, W, C] to float32 [B, C, H, W]: a view with channels last, not a copy.
        floats = images.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)


class KnownAndUnknown:
    """A split of a data set, and then one of another, of which a network should be less sure."""

    def __init__(self, known: ImageBatches, unknown: ImageBatches) -> None:
        self._parts = (known, True), (unknown, False)

    def evaluation_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Images, labels, and whether they are of the known data set."""
        for split, is_known in self._parts:
            for images, labels in split.evaluation_batches():
                yield images, labels, is_known


@dataclass(frozen=True)
class ImageSplits:
    """The splits of one data set; only the training split has training batches and augmentation."""

    train: ImageBatches
    validation: ImageBatches | KnownAndUnknown
    test: ImageBatches | KnownAndUnknown
    num_classes: int  # labels are 0 to num_classes - 1
    image_shape: tuple[int, int, int]  # (C, H, W)
    digest: str  # SHA-256 of the data set, by which a resume tells whether it reads the same
