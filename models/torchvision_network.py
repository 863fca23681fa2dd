"""Any image classifier of torchvision, untrained."""

import torch
import torchvision
from torch import nn

from hypernets import UserError
from hypernets.errors import require_true_or_false

# These two return auxiliary logits in training, which the task does not know.
UNSUPPORTED = ("googlenet", "inception_v3")


def build(image_shape: tuple[int, int, int], num_classes: int, model: str, small_images: bool) -> nn.Module:
    """Build a torchvision classifier for images (C, H, W).

    Args:
        image_shape, num_classes: from the data set.
        model: its name, such as "resnet18" or "mobilenet_v3_small"; `torchvision.models.list_models()` has them.
        small_images: for a ResNet or one of its relatives on images of about 32x32: the stem, a 7x7 convolution of
            stride 2 and a max pooling that together divide height and width by four, becomes a 3x3 convolution of
            stride 1 (as He et al. did for CIFAR-10).
    """
    known = [name for name in torchvision.models.list_models(module=torchvision.models) if name not in UNSUPPORTED]
    if model not in known:
        raise UserError(f"main_net.model is {model!r}; it must be a classifier of torchvision: {', '.join(known)}.")
    require_true_or_false("main_net.small_images", small_images)
    network = torchvision.models.get_model(model, num_classes=num_classes)
    if small_images:
        if not (isinstance(getattr(network, "conv1", None), nn.Conv2d) and hasattr(network, "maxpool")):
            raise UserError(f"{model} has no ResNet's stem to replace; set main_net.small_images=false.")
        network.conv1 = nn.Conv2d(image_shape[0], network.conv1.out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        network.maxpool = nn.Identity()
    elif image_shape[0] != 3:
        raise UserError(
            f"{model} reads images of 3 channels, but this data set has {image_shape[0]}; choose another network, or "
            "a ResNet with main_net.small_images=true."
        )
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, *image_shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        size = "x".join(map(str, image_shape[1:]))
        reason = str(error).partition("\n")[0].rstrip(".!")
        raise UserError(f"{model} cannot read images of {size} ({reason}); choose another main_net.model.") from None
    return network.train()
