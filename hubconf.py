"""The trained networks of results/weights/ for `torch.hub`.

    network = torch.hub.load(REPOSITORY, "hyper_wrn_40_1", source="local")

Every file of weights is an entry point. The network is in evaluation mode on the CPU. An image classifier takes images
that are normalised by the mean and the standard deviation of each channel of the training images (data/images.py), a
character model takes ids (models/character_model.py).
"""

from functools import partial
from pathlib import Path

from training.trained import WEIGHTS, load_network

dependencies = ["torch", "torchvision", "numpy", "omegaconf", "safetensors", "tqdm"]

for _path in sorted(WEIGHTS.glob("*.safetensors")):
    globals()[_path.stem] = partial(load_network, Path(_path.stem))
