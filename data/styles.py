"""Digits in other styles: leaning to the right, or drawn with a thick pen."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.sources import ImageArrays, mnist

SLANT = 0.5  # columns to the right for each row up


def slanted_mnist(root: Path) -> ImageArrays:
    """MNIST in italics."""
    return _restyled(mnist(root), _slanted)


def thick_mnist(root: Path) -> ImageArrays:
    """MNIST with every stroke two pixels wider."""
    return _restyled(mnist(root), lambda images: F.max_pool2d(images, kernel_size=3, stride=1, padding=1))


def _slanted(images: Tensor) -> Tensor:
    shear = torch.tensor([[1.0, SLANT, 0.0], [0.0, 1.0, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(shear, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _restyled(published: ImageArrays, style: Callable[[Tensor], Tensor]) -> ImageArrays:
    def of(images: np.ndarray) -> np.ndarray:
        parts = [
            style(torch.from_numpy(part).permute(0, 3, 1, 2).float()).round().to(torch.uint8).permute(0, 2, 3, 1)
            for part in np.array_split(images, 10)  # a tenth at a time: floats take four times the room
        ]
        return torch.cat(parts).numpy()

    changed = {"train_images": of(published.train_images), "test_images": of(published.test_images)}
    return dataclasses.replace(published, **changed)
