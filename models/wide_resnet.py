"""Wide residual networks for CIFAR-10 (section 4.2, Table 1): WRN-40-k, plain or with generated kernels.

The printed parameter counts (Table 2) fix what the text leaves open: pre-activation blocks, shortcuts without
parameters, a bias on every 3x3 convolution, and a batch norm after the stem besides those of the blocks and the last.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import KernelShape, LearnedKernels


class WideResNet(nn.Module):
    """WRN-depth-width with kernels from a kernel source.

    The 3x3 kernels of the three groups conv2, conv3 and conv4 come from the source; the stem and the classifier are
    always learned.

    Args:
        kernel_source: makes the source from the list of kernel shapes: `LearnedKernels`, or a `StaticHypernetwork`
            with its sizes bound by `functools.partial`.
        depth: 6 N + 4 for N blocks in each group; the paper uses 40.
        width: k, so that the groups have 16 k, 32 k and 64 k channels.
        num_classes: outputs of the classifier.
        image_channels: channels of the input.

    Raises:
        ValueError: a depth that is not 6 N + 4, or a width below one.
    """

    def __init__(
        self,
        kernel_source: Callable[[Sequence[KernelShape]], nn.Module] = LearnedKernels,
        depth: int = 40,
        width: int = 1,
        num_classes: int = 10,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"A Wide ResNet of depth {depth!r} does not exist; depth must be 6 N + 4: 10, 16, ..., 40."
            )
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"The width of a Wide ResNet is {width!r}; it must be a whole number of at least 1.")
        self.stem = nn.Conv2d(image_channels, 16, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(self.stem.weight, nonlinearity="relu")
        nn.init.zeros_(self.stem.bias)
        self.stem_norm = nn.BatchNorm2d(16)

        blocks, channels = [], 16
        for group, block_channels in enumerate((16 * width, 32 * width, 64 * width)):
            for index in range((depth - 4) // 6):
                blocks.append(Block(channels, block_channels, stride=2 if group > 0 and index == 0 else 1))
                channels = block_channels
        self.blocks = nn.ModuleList(blocks)
        self.kernel_source = kernel_source([shape for block in blocks for shape in block.kernel_shapes])

        self.final_norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor, kernels: list[Tensor] | None = None) -> Tensor:
        """Classify images.

        Args:
            images: [B, image_channels, H, W], normalised.
            kernels: the kernels to use, as the source returned them; by default the source is asked.

        Returns:
            Logits [B, num_classes].
        """
        kernels = self.kernel_source() if kernels is None else kernels
        x = F.relu(self.stem_norm(self.stem(images)))  # [B, 16, H, W]
        for block, first, second in zip(self.blocks, kernels[0::2], kernels[1::2], strict=True):
            x = block(x, first, second)
        x = F.relu(self.final_norm(x))  # [B, 64 k, H / 4, W / 4]
        return self.classifier(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """A pre-activation residual block: twice batch norm, ReLU and a 3x3 convolution with a given kernel.

    The shortcut has no parameters: spatial subsampling by the stride, and zeros for the channels that are new.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.kernel_shapes: list[KernelShape] = [(c_out, c_in, 3, 3), (c_out, c_out, 3, 3)]
        self.stride = stride
        self.first_norm = nn.BatchNorm2d(c_in)
        self.first_bias = nn.Parameter(torch.zeros(c_out))
        self.second_norm = nn.BatchNorm2d(c_out)
        self.second_bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor, first_kernel: Tensor, second_kernel: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        residual = F.relu(self.first_norm(x))
        residual = F.conv2d(residual, first_kernel, self.first_bias, stride=self.stride, padding=1)
        residual = F.relu(self.second_norm(residual))
        residual = F.conv2d(residual, second_kernel, self.second_bias, padding=1)
        shortcut = x[:, :, :: self.stride, :: self.stride]
        new_channels = residual.shape[1] - x.shape[1]
        if new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, new_channels))
        return shortcut + residual
