"""Writes the bundled CIFAR-10 sample: the first images of every class, in the order of the published set.

Test images are taken from the first 1,000, which are the same in every copy of the set that we know of.

    python scripts/make_cifar10_sample.py SOURCE [--output data/cifar10_sample.npz]

SOURCE is a folder where torchvision finds or puts CIFAR-10, or an .npz of the whole set with x_train,
y_train, x_test and y_test in the published order.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from data.sources import ImageArrays, arrays, cifar10

TRAIN_PER_CLASS = 140
VALIDATION_PER_CLASS = 20
TEST_PER_CLASS = 30


def first_of_each_class(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Indices, sorted, of the occurrences `start` to `stop` (exclusive) of every label."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[start:stop] for label in np.unique(labels)]))


def draw_sample(loaded: ImageArrays) -> dict[str, np.ndarray]:
    """The arrays of the sample, by name: images uint8 [N, 32, 32, 3], labels uint8 [N]."""
    until = TRAIN_PER_CLASS + VALIDATION_PER_CLASS
    train = first_of_each_class(loaded.train_labels, 0, TRAIN_PER_CLASS)
    validation = first_of_each_class(loaded.train_labels, TRAIN_PER_CLASS, until)
    test = first_of_each_class(loaded.test_labels[:1000], 0, TEST_PER_CLASS)
    return {
        "x_train": loaded.train_images[train],
        "y_train": loaded.train_labels[train].astype(np.uint8),
        "x_validation": loaded.train_images[validation],
        "y_validation": loaded.train_labels[validation].astype(np.uint8),
        "x_test": loaded.test_images[test],
        "y_test": loaded.test_labels[test].astype(np.uint8),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path("data/cifar10_sample.npz"))
    arguments = parser.parse_args()
    try:
        loaded = arrays(arguments.source) if arguments.source.suffix == ".npz" else cifar10(arguments.source)
        np.savez_compressed(arguments.output, **draw_sample(loaded))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
