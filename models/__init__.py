"""Main networks, and how a configuration becomes one."""

from models.build import build_image_classifier
from models.mnist_convnet import MNISTConvnet
from models.wide_resnet import WideResNet

__all__ = ["MNISTConvnet", "WideResNet", "build_image_classifier"]
