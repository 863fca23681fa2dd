"""From plain settings to the splits of a data set of images, of a text, of handwriting or of sentence pairs.

A new data set is one function `load(root, **its own settings)` in a file of its own, and a line in a table below.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.enwik8 import enwik8
from data.files import BUNDLED
from data.images import ImageBatches, ImageSplits, KnownAndUnknown, channel_statistics, draw_validation
from data.sources import ImageArrays, arrays, cifar10, fashion_mnist, mnist
from data.stroke_sources import StrokeArrays, iam_ondb, scribbles
from data.strokes import EvaluationLines, StrokeSplits, TrainingLines, offset_statistics, without_short_lines
from data.styles import slanted_mnist, thick_mnist
from data.task_sequences import PermutedImages, TaskSplits, of_classes
from data.text import EvaluationStreams, TextSplits, TrainingStreams
from data.text_sources import TextArrays, ptb_char, text
from data.translation import EvaluationPairs, Subwords, TrainingPairs, TranslationSplits
from data.translation_sources import TRANSLATIONS
from hypernets.errors import UserError, call_with_settings, require_number, require_true_or_false, require_whole

IMAGE_SETS: dict[str, Callable[..., ImageArrays]] = {
    "cifar10": cifar10,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "slanted_mnist": slanted_mnist,
    "thick_mnist": thick_mnist,
    "arrays": arrays,
}
TEXTS: dict[str, Callable[..., TextArrays]] = {
    "ptb_char": ptb_char,
    "enwik8": enwik8,
    "text": text,
}
STROKES: dict[str, Callable[..., StrokeArrays]] = {
    "iam_ondb": iam_ondb,
    "scribbles": scribbles,
}

# The settings that all kinds share, with their defaults; batch_size and sequence_length have none.
IMAGE_SETTINGS = {
    "batch_size": None,
    "padding": 0,
    "flip": False,
    "validation_size": None,
    "split_seed": None,
}
SMALL_SETTINGS = {"small_size": None, "small_steps": 0}
TASK_SETTINGS = {"sequence": None, "tasks": None, "steps_per_task": None, "classes_per_task": None}
TEXT_SETTINGS = {
    "batch_size": None,
    "sequence_length": None,
    "validation_streams": 1,
    "test_streams": 1,
    "warm_up": 1000,
}
STROKE_SETTINGS = {"batch_size": None, "sequence_length": None, "shortest": 300, "scaling": 0.0}
TRANSLATION_SETTINGS = {"batch_size": None, "vocabulary_size": None, "longest": None}


def build_images(
    settings: Mapping[str, Any],
    *,
    seed: int,
    device: torch.device | str,
    rank: int,
    world_size: int,
    any_size: bool = False,
) -> ImageSplits:
    """Load a data set and hold its splits on `device`, normalised by the statistics of the training split.

    The settings, by name:
        kind: a key of `IMAGE_SETS`; its function's own settings are here too.
        root: the folder of the public data sets; None for the project's data/cache.
        batch_size, padding, flip: see `ImageBatches`; all change only the training split.
        small_size, small_steps: the same, but only where the task takes images of `any_size`.
        validation_size, split_seed: how many training images are held out, and which (see `draw_validation`);
            None for a tenth and for 0. They must be None if the data set has a validation split of its own.
    """
    defaults = IMAGE_SETTINGS | (SMALL_SETTINGS if any_size else {})
    loaded, divided, settings = _load_images(settings, defaults, seed, world_size)
    if any_size and (settings["small_size"] is not None or settings["small_steps"]):
        require_whole("small_size", settings["small_size"])
        require_whole("small_steps", settings["small_steps"], least=0)
    place = {"device": device, "rank": rank, "world_size": world_size}
    statistics = channel_statistics(divided.train_images)
    return _image_splits(divided, settings, statistics, _digest(loaded), seed=seed, **place)


def build_tasks(
    settings: Mapping[str, Any], *, seed: int, device: torch.device | str, rank: int, world_size: int
) -> TaskSplits:
    """Make a sequence of tasks, for continual learning, from a data set of images.

    The settings, besides those of `build_images`:
        sequence: "split" for tasks of `classes_per_task` classes each, in order, whose labels begin with 0 in every
            task; "permuted" for the whole data set with the pixels in another fixed order in every task.
        tasks: how many. Their order of pixels is that of `split_seed`.
        steps_per_task: a training step belongs to the task step // steps_per_task.
        classes_per_task: of "split"; None for "permuted".
    """
    loaded, divided, settings = _load_images(settings, IMAGE_SETTINGS | TASK_SETTINGS, seed, world_size)
    sequence, tasks, classes = (settings[name] for name in ("sequence", "tasks", "classes_per_task"))
    require_whole("tasks", tasks)
    require_whole("steps_per_task", settings["steps_per_task"])
    place = {"seed": seed, "device": device, "rank": rank, "world_size": world_size}
    statistics, digest = channel_statistics(divided.train_images), _digest(loaded)
    if sequence == "split":
        require_whole("classes_per_task", classes)
        if tasks * classes > divided.num_classes:
            raise UserError(
                f"tasks is {tasks} and classes_per_task is {classes}, but the data set has only {divided.num_classes} "
                "classes; choose fewer of either."
            )
        groups = [of_classes(divided, range(task * classes, (task + 1) * classes)) for task in range(tasks)]
        for task, group in enumerate(groups):
            for split in ("train", "validation", "test"):
                if not len(getattr(group, f"{split}_labels")):
                    raise UserError(
                        f"The {split} split has no image of task {task}, which has the classes {task * classes} to "
                        f"{(task + 1) * classes - 1}; choose fewer tasks, or other data or another validation_size."
                    )
        each = [_image_splits(group, settings, statistics, digest, **place) for group in groups]
    elif sequence == "permuted":
        if classes is not None:
            raise UserError(f"classes_per_task is {classes}, but permuted tasks have all classes; set it to null.")
        whole = _image_splits(divided, settings, statistics, digest, **place)
        each = [PermutedImages.splits(whole, (settings["split_seed"] or 0, task)) for task in range(tasks)]
    else:
        raise UserError(f"sequence is {sequence!r}; it must be split or permuted.")
    return TaskSplits.in_turn(each, settings["steps_per_task"])


def build_with_unknown(
    settings: Mapping[str, Any], *, seed: int, device: torch.device | str, rank: int, world_size: int
) -> ImageSplits:
    """As `build_images`, with images of another data set among those of validation and test.

    `unknown` is the kind of the other data set, whose images must have the same shape. They are normalised by the
    statistics of the first, as they would be if nobody knew that they are strange.
    """
    loaded, divided, settings = _load_images(settings, IMAGE_SETTINGS | {"unknown": None}, seed, world_size)
    if settings["unknown"] not in IMAGE_SETS:
        raise UserError(f"dataset.unknown is {settings['unknown']!r}; it must be one of {', '.join(IMAGE_SETS)}.")
    other = {name: settings[name] for name in IMAGE_SETTINGS}  # without the path of images of your own
    other |= {"kind": settings["unknown"], "root": settings.get("root")}
    others, divided_others, _ = _load_images(other, IMAGE_SETTINGS, seed, world_size)
    place = {"device": device, "rank": rank, "world_size": world_size}
    statistics = channel_statistics(divided.train_images)
    known = _image_splits(divided, settings, statistics, _digest(loaded) + _digest(others), seed=seed, **place)
    pairs = {}
    for split in ("validation", "test"):
        unknown = _evaluation_split(divided_others, split, statistics, **place)
        if known.image_shape != unknown.image_shape:
            raise UserError(
                f"unknown is {settings['unknown']}, whose images are {list(unknown.image_shape)}, but those of the "
                f"data set are {list(known.image_shape)}; choose another."
            )
        pairs[split] = KnownAndUnknown(getattr(known, split), unknown)
    return dataclasses.replace(known, **pairs)


def build_text(settings: Mapping[str, Any], *, device: torch.device | str, rank: int, world_size: int) -> TextSplits:
    """Load a text and hold its splits on `device`.

    The settings, by name:
        kind, root: as for `build_images`, with `TEXTS`.
        batch_size, sequence_length: see `TrainingStreams`.
        validation_streams, test_streams, warm_up: see `EvaluationStreams`.
    """
    settings = {**TEXT_SETTINGS, **settings}
    _require_batch_size(settings["batch_size"], world_size)
    for name in TEXT_SETTINGS:
        require_whole(name, settings[name])
    loaded = _load(TEXTS, settings, TEXT_SETTINGS)
    place = {"device": device, "rank": rank, "world_size": world_size}
    training = {name: settings[name] for name in ("batch_size", "sequence_length")}
    evaluation = {"warm_up": settings["warm_up"], **place}
    return TextSplits(
        train=TrainingStreams(loaded.train, **training, **place),
        validation=EvaluationStreams(loaded.validation, streams=settings["validation_streams"], **evaluation),
        test=EvaluationStreams(loaded.test, streams=settings["test_streams"], **evaluation),
        vocabulary=loaded.vocabulary,
        digest=_digest(loaded),
    )


def build_strokes(
    settings: Mapping[str, Any], *, seed: int, device: torch.device | str, rank: int, world_size: int
) -> StrokeSplits:
    """Load handwriting and hold its splits on `device`, normalised by the statistics of the training split.

    The settings, by name:
        kind, root: as for `build_images`, with `STROKES`.
        shortest: lines of fewer steps are left out, of all splits.
        batch_size, sequence_length, scaling: see `TrainingLines`.
    """
    settings = {**STROKE_SETTINGS, **settings}
    _require_batch_size(settings["batch_size"], world_size)
    shortest, sequence_length = settings["shortest"], settings["sequence_length"]
    require_whole("shortest", shortest)
    require_number("scaling", settings["scaling"], least=0, below=1)
    if sequence_length is not None:
        require_whole("sequence_length", sequence_length)
        if sequence_length > shortest:
            raise UserError(
                f"sequence_length is {sequence_length}, but lines of {shortest} steps are kept; set shortest to at "
                f"least {sequence_length}, or choose a smaller sequence_length."
            )
    loaded = _load(STROKES, settings, STROKE_SETTINGS)
    splits = {}
    for name in ("train", "validation", "test"):
        of_split = getattr(loaded, f"{name}_points"), getattr(loaded, f"{name}_lengths")
        splits[name] = without_short_lines(*of_split, shortest)
        if not len(splits[name][1]):
            raise UserError(f"The {name} split has no line of {shortest} steps; set shortest to fewer.")
    mean, std = offset_statistics(*splits["train"])
    shared = {"mean": mean, "std": std, "device": device, "rank": rank, "world_size": world_size}
    training = {name: settings[name] for name in ("batch_size", "sequence_length", "scaling")}
    return StrokeSplits(
        train=TrainingLines(*splits["train"], **training, seed=seed, **shared),
        validation=EvaluationLines(*splits["validation"], **shared),
        test=EvaluationLines(*splits["test"], **shared),
        mean=mean,
        std=std,
        digest=_digest(loaded),
    )


def build_translation(
    settings: Mapping[str, Any], *, seed: int, device: torch.device | str, rank: int, world_size: int
) -> TranslationSplits:
    """Load sentence pairs, learn subwords from the training split and encode all splits.

    The settings, by name:
        kind, root: as for `build_images`, with `TRANSLATIONS`.
        batch_size: see `TrainingPairs`.
        vocabulary_size: subwords, of both languages together.
        longest: pairs with more subwords than this on a side are left out of training.
    """
    settings = {**TRANSLATION_SETTINGS, **settings}
    _require_batch_size(settings["batch_size"], world_size)
    for name in ("vocabulary_size", "longest"):
        require_whole(f"dataset.{name}", settings[name])
    require_whole("seed", seed, least=0)
    loaded = _load(TRANSLATIONS, settings, TRANSLATION_SETTINGS)
    subwords = Subwords.learn([*loaded.train[0], *loaded.train[1]], settings["vocabulary_size"])
    source, target = map(subwords.encode, loaded.train)
    kept = [i for i, pair in enumerate(zip(source, target, strict=True)) if max(map(len, pair)) <= settings["longest"]]
    if not kept:
        raise UserError(f"dataset.longest is {settings['longest']}, and every training pair is longer; raise it.")
    place = {"device": device, "rank": rank, "world_size": world_size}
    train = ([side[i] for i in kept] for side in (source, target))

    def evaluated(split: str, beams: tuple[int, ...]) -> EvaluationPairs:
        sentences, references = getattr(loaded, split)
        return EvaluationPairs(*map(subwords.encode, (sentences, references)), references, beams=beams, **place)

    digest = hashlib.sha256(subwords.model)
    for sentences in (side for split in vars(loaded).values() for side in split):
        for line in (str(len(sentences)), *sentences):
            digest.update(f"{line}\n".encode())
    return TranslationSplits(
        train=TrainingPairs(*train, batch_size=settings["batch_size"], seed=seed, **place),
        validation=evaluated("validation", beams=(1,)),
        test=evaluated("test", beams=(1, 4)),
        examples=tuple(side[:10] for side in loaded.validation),
        subwords=subwords,
        digest=digest.hexdigest(),
    )


def _load_images(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], seed: int, world_size: int
) -> tuple[ImageArrays, ImageArrays, dict[str, Any]]:
    """Load a data set of images: as it is, with a validation split, and the settings with their defaults, checked."""
    settings = {**defaults, **settings}
    _require_batch_size(settings["batch_size"], world_size)
    require_whole("seed", seed, least=0)
    require_whole("padding", settings["padding"], least=0)
    require_true_or_false("flip", settings["flip"])
    loaded = _load(IMAGE_SETS, settings, defaults)
    return loaded, _divide(loaded, settings["validation_size"], settings["split_seed"]), settings


def _image_splits(
    divided: ImageArrays, settings: Mapping[str, Any], statistics: Any, digest: str, *, seed: int, **place: Any
) -> ImageSplits:
    names = ("batch_size", "padding", "flip", *SMALL_SETTINGS)
    training = {name: settings[name] for name in names if name in settings}
    mean, std = statistics
    train = ImageBatches(divided.train_images, divided.train_labels, mean=mean, std=std, **training, seed=seed, **place)
    return ImageSplits(
        train=train,
        validation=_evaluation_split(divided, "validation", statistics, **place),
        test=_evaluation_split(divided, "test", statistics, **place),
        num_classes=divided.num_classes,
        image_shape=train.image_shape,
        digest=digest,
    )


def _evaluation_split(divided: ImageArrays, split: str, statistics: Any, **place: Any) -> ImageBatches:
    mean, std = statistics
    images, labels = (getattr(divided, f"{split}_{part}") for part in ("images", "labels"))
    return ImageBatches(images, labels, mean=mean, std=std, **place)


def _require_batch_size(batch_size: Any, world_size: int) -> None:
    require_whole("batch_size", batch_size)
    if batch_size % world_size:
        raise UserError(
            f"batch_size is {batch_size}, which {world_size} processes cannot share equally; "
            f"choose a multiple of {world_size}."
        )


def _load(kinds: Mapping[str, Callable], settings: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    """Call the function of the data set's kind with the settings that are not shared by all kinds."""
    kind = settings.get("kind")
    if kind not in list(kinds):
        raise UserError(f"dataset.kind is {kind!r}; it must be one of {', '.join(kinds)}.")
    root = Path(os.path.expanduser(str(settings.get("root") or BUNDLED / "cache")))
    own = {name: value for name, value in settings.items() if name not in ("kind", "root", *shared)}
    try:
        return call_with_settings(kinds[kind], "dataset", own, root)
    except OSError as error:
        raise UserError(
            f"{error.filename or root} cannot be read ({error.strerror or error}); check that it is a file that you "
            "may read, or set dataset.root to another folder."
        ) from error


def _divide(loaded: ImageArrays, validation_size: int | None, split_seed: int | None) -> ImageArrays:
    """The same images with a validation split: their own, or one that is drawn from the training images."""
    if loaded.validation_images is not None:
        if validation_size is not None or split_seed is not None:
            raise UserError(
                f"validation_size is {validation_size} and split_seed is {split_seed}, but the data set has a "
                "validation split of its own; set both to null."
            )
        return loaded
    images, labels = loaded.train_images, loaded.train_labels
    size = max(1, len(images) // 10) if validation_size is None else validation_size
    remaining, held_out = draw_validation(len(images), size, 0 if split_seed is None else split_seed)
    return dataclasses.replace(
        loaded,
        train_images=images[remaining],
        train_labels=labels[remaining],
        validation_images=images[held_out],
        validation_labels=labels[held_out],
    )


def _digest(loaded: ImageArrays | TextArrays | StrokeArrays) -> str:
    """SHA-256 of everything that a data set holds."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(loaded):
        value = getattr(loaded, field.name)
        is_array = isinstance(value, np.ndarray)
        content = f"{field.name} {value.shape if is_array else value} "
        digest.update(content.encode("utf-8", "surrogateescape"))  # a vocabulary of bytes: see data/text_sources.py
        if is_array:
            digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()
