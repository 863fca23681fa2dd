"""Main networks, and how a configuration becomes one."""

from models.build import CHARACTER_MODELS, build_character_model, build_image_classifier, check_combination
from models.character_model import CharacterModel
from models.mnist_convnet import MNISTConvnet
from models.wide_resnet import WideResNet

__all__ = [
    "CHARACTER_MODELS",
    "CharacterModel",
    "MNISTConvnet",
    "WideResNet",
    "build_character_model",
    "build_image_classifier",
    "check_combination",
]
