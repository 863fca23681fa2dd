"""A small class-conditional denoiser with cross-attention, for diffusion models of digits, and its adapters.

Shape legend
    B  images
    N  patches of an image
    U  units
    M  tokens of a class: the context that cross-attention reads
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hypernets import KeyValueNetworks, UserError
from hypernets.errors import require_whole

PATCH = 4  # pixels on each side
TOKENS = 4  # of a class
FREQUENCIES = 16  # of the time


class Denoiser(nn.Module):
    """Predicts the noise in an image from the noisy image, its time and its class, by transformer blocks on patches."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, units: int, blocks: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        patches = (height // PATCH) * (width // PATCH)
        self.read = nn.Linear(channels * PATCH**2, units)
        self.place = nn.Parameter(0.02 * torch.randn(patches, units))
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, units), nn.SiLU(), nn.Linear(units, units))
        self.context = nn.Parameter(torch.randn(num_classes, TOKENS, units))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(units, 4, 4 * units, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(units)
        self.write = nn.Linear(units, channels * PATCH**2)

    def forward(self, noisy: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Map noisy images [B, C, H, W] of times [B] in [0, 1] and labels [B] to their noise [B, C, H, W]."""
        x = F.unfold(noisy, PATCH, stride=PATCH).transpose(1, 2)  # [B, N, C * PATCH^2]
        angles = time[:, None] * math.pi * 2.0 ** torch.linspace(-1, 8, FREQUENCIES, device=time.device)
        moment = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        x = self.read(x) + self.place + moment[:, None]  # [B, N, U]
        context = self.context[labels]  # [B, M, U]
        for block in self.blocks:
            x = block(x, context)
        size = noisy.shape[2:]
        return F.fold(self.write(self.norm(x)).transpose(1, 2), size, PATCH, stride=PATCH)


class LowRank(nn.Module):
    """W + B A with a learned change of low rank (Hu et al. 2021); B starts at zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Change a weight [rows, columns]."""
        return weight + self.up @ self.down


def add_low_rank(network: nn.Module, rank: int) -> nn.Module:
    """Freeze a network and give each matrix of its transformer blocks a learned change of low rank."""
    require_whole("hypernet.rank", rank)
    network.requires_grad_(False)
    for block in [module for module in network.modules() if isinstance(module, nn.TransformerDecoderLayer)]:
        for module in list(block.modules()):
            for name in ("in_proj_weight", "weight"):
                weight = getattr(module, name, None)
                if isinstance(weight, nn.Parameter) and weight.dim() == 2:
                    parametrize.register_parametrization(module, name, LowRank(weight, rank))
    return network


def add_key_value_networks(network: nn.Module, layer_structure: Sequence[float], activation: str) -> nn.Module:
    """Freeze a network and let its cross-attentions read the context through key-value networks."""
    return KeyValueNetworks(network, layer_structure=layer_structure, activation=activation)


ADAPTERS = {"none": lambda network: network, "low_rank": add_low_rank, "key_value": add_key_value_networks}


def build(image_shape: tuple[int, int, int], num_classes: int, units: int, blocks: int) -> Denoiser:
    """Build the network for images (C, H, W)."""
    require_whole("main_net.units", units)
    require_whole("main_net.blocks", blocks)
    if image_shape[1] % PATCH or image_shape[2] % PATCH or units % 4:
        raise UserError(
            f"The denoiser cuts images into patches of {PATCH}x{PATCH} pixels and has 4 heads, but the images are "
            f"{image_shape[1]}x{image_shape[2]} and main_net.units is {units}; choose others."
        )
    return Denoiser(image_shape, num_classes, units, blocks)
