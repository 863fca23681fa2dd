"""The MNIST convnet of section 4.1 (A.3.1, Table 7), whose second kernel may be generated (Figure 2)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import KernelShape, LearnedKernels


class MNISTConvnet(nn.Module):
    """Two 7x7 convolutions of 16 channels, each with ReLU and 2x2 max pooling, then a linear classifier.

    The second kernel, 16 x 16 x 7 x 7, comes from the kernel source. With a `StaticHypernetwork` of N_z = d = 4 the
    network has 12,910 parameters (Table 7), with learned kernels 21,210.

    Args:
        kernel_source: makes the source from the list of kernel shapes.
        num_classes: outputs of the classifier.
        image_channels: channels of the input.
    """

    def __init__(
        self,
        kernel_source: Callable[[Sequence[KernelShape]], nn.Module] = LearnedKernels,
        num_classes: int = 10,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, 16, kernel_size=7, padding=3)
        nn.init.kaiming_normal_(self.stem.weight, nonlinearity="relu")
        nn.init.zeros_(self.stem.bias)
        self.kernel_source = kernel_source([(16, 16, 7, 7)])
        self.second_bias = nn.Parameter(torch.zeros(16))
        self.classifier = nn.Linear(16 * 7 * 7, num_classes)

    def forward(self, images: Tensor, kernels: list[Tensor] | None = None) -> Tensor:
        """Classify images [B, image_channels, 28, 28]; return logits [B, num_classes].

        `kernels` are those to use, as the source returned them; by default the source is asked.
        """
        (second_kernel,) = self.kernel_source() if kernels is None else kernels
        x = F.max_pool2d(F.relu(self.stem(images)), 2)  # [B, 16, 14, 14]
        x = F.max_pool2d(F.relu(F.conv2d(x, second_kernel, self.second_bias, padding=3)), 2)  # [B, 16, 7, 7]
        return self.classifier(x.flatten(1))
