"""Wide residual networks for CIFAR-10 (section 4.2, Table 1): WRN-40-k.

The printed parameter counts (Table 2) fix what the text leaves open: pre-activation blocks, shortcuts without
parameters, a bias on every 3x3 convolution, and a batch norm after the stem besides those of the blocks and the last.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import require_whole


class WideResNet(nn.Module):
    """WRN-depth-width, on images [B, image_channels, H, W], normalised; returns logits [B, num_classes].

    In the paper's hyper Wide ResNets the 3x3 kernels of the blocks are generated, the stem and the classifier learned.

    Args:
        depth: 6 N + 4 for N blocks in each of the groups conv2, conv3 and conv4; the paper uses 40.
        width: k, so that the groups have 16 k, 32 k and 64 k channels.
    """

    def __init__(self, depth: int = 40, width: int = 1, num_classes: int = 10, image_channels: int = 3) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
            raise UserError(f"The depth of a Wide ResNet is {depth!r}; it must be 6 N + 4: 10, 16, ..., 40.")
        require_whole("The width of a Wide ResNet", width)
        self.stem = convolution(image_channels, 16)
        self.stem_norm = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for group, block_channels in enumerate((16 * width, 32 * width, 64 * width)):
            for index in range((depth - 4) // 6):
                blocks.append(Block(channels, block_channels, stride=2 if group > 0 and index == 0 else 1))
                channels = block_channels
        self.blocks = nn.Sequential(*blocks)
        self.final_norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, image_channels, H, W]; return logits [B, num_classes]."""
        x = F.relu(self.stem_norm(self.stem(images)))  # [B, 16, H, W]
        x = F.relu(self.final_norm(self.blocks(x)))  # [B, 64 k, H / 4, W / 4]
        return self.classifier(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """A pre-activation residual block: batch norm, ReLU and a 3x3 convolution, all twice.

    The shortcut has no parameters: spatial subsampling by the stride, and zeros for the channels that are new.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = c_out - c_in
        self.first_norm = nn.BatchNorm2d(c_in)
        self.first_convolution = convolution(c_in, c_out, stride)
        self.second_norm = nn.BatchNorm2d(c_out)
        self.second_convolution = convolution(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        residual = self.first_convolution(F.relu(self.first_norm(x)))
        residual = self.second_convolution(F.relu(self.second_norm(residual)))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return shortcut + residual


def convolution(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution, initialised as by He et al.: normal with variance 2 / fan-in, bias zero."""
    layer = nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def build(image_shape: tuple[int, int, int], num_classes: int, depth: int, width: int) -> WideResNet:
    """Build the network for images (C, H, W) from the settings of configs/main_net/wide_resnet.yaml."""
    return WideResNet(depth, width, num_classes, image_channels=image_shape[0])
