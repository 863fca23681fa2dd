"""From plain settings to the splits of a data set of images or of a text."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images import ImageBatches, ImageSplits, channel_statistics, draw_validation
from data.sources import ImageArrays, arrays, cifar10, mnist
from data.text import EvaluationStreams, TextSplits, TrainingStreams
from data.text_sources import TextArrays, enwik8, ptb_char, text

TEXT_SOURCES = ("ptb_char", "enwik8", "text")


def load_images(source: str, root: str | Path, path: str | Path | None = None) -> ImageArrays:
    """Reads "cifar10" or "mnist" (in `root`, downloaded if absent) or "arrays" (the .npz at `path`).

    Raises:
        ValueError: the source is unknown, or what it reads is not as it should be.
        FileNotFoundError: the data is not there and could not be downloaded.
    """
    if source == "cifar10":
        return cifar10(root)
    if source == "mnist":
        return mnist(root)
    if source == "arrays":
        if path is None:
            raise ValueError('dataset.source is "arrays", but dataset.path is not set; set it to an .npz file.')
        return arrays(path, root)
    raise ValueError(f'dataset.source is "{source}", but must be one of "cifar10", "mnist" and "arrays".')


def build_images(
    *,
    source: str,
    root: str | Path,
    batch_size: int,
    path: str | Path | None = None,
    validation_size: int = 5000,
    split_seed: int = 0,
    padding: int = 0,
    flip: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    test_subsets: Mapping[str, Sequence[int]] | None = None,
) -> ImageSplits:
    """Loads a data set and holds its splits on `device`, normalised by the statistics of the training split.

    Args:
        source, root, path: see `load_images`.
        validation_size, split_seed: how many training images are held out, and which (see `draw_validation`);
            unused by arrays that come with a validation split.
        batch_size, padding, flip, seed, rank, world_size: see `ImageBatches`; padding and flip augment only
            the training split.
        test_subsets: name -> [start, stop), slices of the test images whose error is reported as well.

    Raises:
        ValueError: a setting makes no sense, or a file is not as it should be.
        FileNotFoundError: the data is not there and could not be downloaded.
    """
    loaded = load_images(source, root, path)
    train_images, train_labels = loaded.train_images, loaded.train_labels
    validation_images, validation_labels = loaded.validation_images, loaded.validation_labels
    if validation_images is None or validation_labels is None:
        remaining, held_out = draw_validation(len(train_images), validation_size, split_seed)
        validation_images, validation_labels = train_images[held_out], train_labels[held_out]
        train_images, train_labels = train_images[remaining], train_labels[remaining]

    mean, std = channel_statistics(train_images)

    def evaluated(images: np.ndarray, labels: np.ndarray) -> ImageBatches:
        return ImageBatches(images, labels, mean=mean, std=std, device=device, rank=rank, world_size=world_size)

    train = ImageBatches(
        train_images,
        train_labels,
        mean=mean,
        std=std,
        batch_size=batch_size,
        padding=padding,
        flip=flip,
        seed=seed,
        device=device,
        rank=rank,
        world_size=world_size,
    )
    test = {"test": evaluated(loaded.test_images, loaded.test_labels)}
    for name, bounds in (test_subsets or {}).items():
        subset = _subset(name, bounds, len(loaded.test_images))
        test[name] = evaluated(loaded.test_images[subset], loaded.test_labels[subset])
    return ImageSplits(
        train=train,
        validation=evaluated(validation_images, validation_labels),
        test=test,
        num_classes=loaded.num_classes,
        image_shape=train.image_shape,
        digest=_digest(loaded),
    )


def load_text(source: str, root: str | Path, **settings: Any) -> TextArrays:
    """Reads "ptb_char" or "enwik8" (in `root`) or "text" (the file at `path`, with the settings of `text`).

    Raises:
        ValueError: the source is unknown, or what it reads is not as it should be.
        FileNotFoundError: the text is not there and could not be downloaded.
    """
    if source == "ptb_char":
        return ptb_char(root)
    if source == "enwik8":
        return enwik8(root)
    if source == "text":
        if settings.get("path") is None:
            raise ValueError('dataset.source is "text", but dataset.path is not set; set it to a text file.')
        return text(root=root, **settings)
    raise ValueError(f'dataset.source is "{source}", but must be one of {", ".join(TEXT_SOURCES)} for a text.')


def build_text(
    *,
    batch_size: int,
    sequence_length: int,
    validation_streams: int = 1,
    test_streams: int = 1,
    warm_up: int = 1000,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    **source: Any,
) -> TextSplits:
    """Loads a text and holds its splits on `device`.

    Args:
        batch_size, sequence_length, rank, world_size: see `TrainingStreams`.
        validation_streams, test_streams, warm_up: see `EvaluationStreams`.
        source: the arguments of `load_text`.

    Raises:
        ValueError: a setting makes no sense, or a file is not as it should be.
        FileNotFoundError: the text is not there and could not be downloaded.
    """
    loaded = load_text(**source)
    place = {"device": device, "rank": rank, "world_size": world_size}
    return TextSplits(
        train=TrainingStreams(loaded.train, batch_size=batch_size, sequence_length=sequence_length, **place),
        validation=EvaluationStreams(loaded.validation, streams=validation_streams, warm_up=warm_up, **place),
        test={"test": EvaluationStreams(loaded.test, streams=test_streams, warm_up=warm_up, **place)},
        vocabulary=loaded.vocabulary,
        digest=_digest(loaded),
    )


def _digest(loaded: ImageArrays | TextArrays) -> str:
    """SHA-256 of all that a data set holds."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(loaded):
        value = getattr(loaded, field.name)
        is_array = isinstance(value, np.ndarray)
        content = f"{field.name} {value.shape if is_array else value} "
        digest.update(content.encode("utf-8", "surrogateescape"))  # a vocabulary of bytes: see data/text_sources.py
        if is_array:
            digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()


def _subset(name: str, bounds: Sequence[int], num_test: int) -> slice:
    if not name.startswith("test_"):
        raise ValueError(f'The name of test subset "{name}" does not begin with "test_"; rename it to "test_{name}".')
    whole = isinstance(bounds, Sequence) and all(type(bound) is int for bound in bounds)
    if not whole or len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= num_test:
        raise ValueError(
            f'Test subset "{name}" is {bounds}, but must be [start, stop] with '
            f"0 <= start < stop <= {num_test}, the number of test images."
        )
    return slice(bounds[0], bounds[1])
