"""Prints how many images a second the training pipeline alone makes: crop, flip, normalise.

python scripts/benchmark_data.py [--device cuda] [--source cifar10 --root FOLDER]
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from data.build import build_images
from data.images import ImageBatches


def images_per_second(batches: ImageBatches, steps: int, device: torch.device) -> float:
    """Images a second over `steps` training batches, after a few that are not timed."""
    for step in range(10):
        batches.batch(step)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for step in range(10, 10 + steps):
        batches.batch(step)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps * batches.batch_size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="arrays", help="cifar10, mnist or arrays")
    parser.add_argument("--path", default="data/cifar10_sample.npz", help="the .npz, for arrays")
    parser.add_argument("--root", default="data/cache", help="the folder of cifar10 and mnist")
    parser.add_argument("--padding", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    try:
        splits = build_images(
            source=arguments.source,
            root=arguments.root,
            path=arguments.path,
            batch_size=arguments.batch_size,
            padding=arguments.padding,
            flip=True,
            device=device,
        )
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    rate = images_per_second(splits.train, arguments.steps, device)
    print(f"{rate:,.0f} images/s on {device}, batch {arguments.batch_size}, images {list(splits.image_shape)}")


if __name__ == "__main__":
    main()
