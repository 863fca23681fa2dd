"""Kernels as images, as in Figures 2, 12 and 13."""

import numpy as np
import torch
from torch import Tensor


def kernel_picture(kernel: Tensor, scale: int = 4) -> np.ndarray:
    """Draw a kernel [c_out, c_in, height, width] as a grid of its filters, `scale` pixels per weight.

    Return uint8 [H, W, 3] with H = scale * (c_out * (height + 1) + 1) and W likewise: one row per output channel,
    one column per input channel. Zero is white, positive weights are red and negative ones blue; the largest magnitude
    of the kernel has the full colour.
    """
    kernel = kernel.detach().float().cpu()
    c_out, c_in, height, width = kernel.shape
    value = kernel / kernel.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    red, blue = 1 - (-value).clamp_min(0), 1 - value.clamp_min(0)
    colours = torch.stack([red, torch.minimum(red, blue), blue], dim=-1)  # [c_out, c_in, height, width, 3]
    grid = torch.full((c_out * (height + 1) + 1, c_in * (width + 1) + 1, 3), 0.5)
    cells = grid[1:, 1:].unflatten(0, (c_out, height + 1)).unflatten(2, (c_in, width + 1))
    cells[:, :height, :, :width] = colours.permute(0, 2, 1, 3, 4)
    pixels = grid.repeat_interleave(scale, dim=0).repeat_interleave(scale, dim=1)
    return (pixels * 255).round().to(torch.uint8).numpy()
