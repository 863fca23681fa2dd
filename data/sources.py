"""Where images come from: CIFAR-10 and MNIST through torchvision, or arrays in a user's .npz file.

Every file of a public set is checked against its published MD5 before it is read. A file that fails is named
and left as it is: nothing is deleted, overwritten or downloaded over it.
"""

import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.utils import calculate_md5

# torchvision publishes the MD5 of MNIST's .gz files only; these are of the files inside them.
MNIST_RAW_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class ImageArrays:
    """A data set as it was published: images uint8 [N, H, W, C], labels int64 [N] in 0 .. num_classes - 1.

    The validation arrays are None unless the data set comes with a validation split of its own.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None


def cifar10(root: str | Path) -> ImageArrays:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour images of 32x32, downloaded to `root` if absent.

    Raises:
        ValueError: a file is there with the wrong MD5.
        FileNotFoundError: the set is not in `root` and could not be downloaded.
    """
    root = Path(root).expanduser()
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    extracted = {
        root / CIFAR10.base_folder / name: md5 for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta)
    }
    _require_files("CIFAR-10", CIFAR10, root, extracted, {root / CIFAR10.filename: CIFAR10.tgz_md5})
    train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    return ImageArrays(
        np.ascontiguousarray(train.data),
        np.array(train.targets, dtype=np.int64),
        np.ascontiguousarray(test.data),
        np.array(test.targets, dtype=np.int64),
        num_classes=10,
    )


def mnist(root: str | Path) -> ImageArrays:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey images of 28x28, downloaded to `root` if absent.

    Raises:
        ValueError: a file is there with the wrong MD5.
        FileNotFoundError: the set is not in `root` and could not be downloaded.
    """
    raw = Path(root).expanduser() / "MNIST" / "raw"
    extracted = {raw / name: md5 for name, md5 in MNIST_RAW_MD5.items()}
    _require_files("MNIST", MNIST, raw.parent.parent, extracted, {raw / name: md5 for name, md5 in MNIST.resources})

    def images(name: str) -> np.ndarray:
        return np.fromfile(raw / name, dtype=np.uint8, offset=16).reshape(-1, 28, 28, 1)

    def labels(name: str) -> np.ndarray:
        return np.fromfile(raw / name, dtype=np.uint8, offset=8).astype(np.int64)

    return ImageArrays(
        images("train-images-idx3-ubyte"),
        labels("train-labels-idx1-ubyte"),
        images("t10k-images-idx3-ubyte"),
        labels("t10k-labels-idx1-ubyte"),
        num_classes=10,
    )


def _require_files(
    title: str, dataset: type, root: Path, extracted: dict[Path, str], archives: dict[Path, str]
) -> None:
    """Verifies what is there of a public set, and downloads it to `root` if `extracted` is not complete."""
    remedy = f"move it away to have {title} downloaded again, or put a good copy in its place"
    require_md5(extracted, remedy)
    if all(path.is_file() for path in extracted):
        return
    # Before the download, because torchvision would write over an archive whose checksum is wrong.
    require_md5(archives, remedy)
    try:
        dataset(root, download=True)
    except (OSError, HTTPException, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{title} is not in {root} and could not be downloaded ({reason}): "
            f"put {' and '.join(str(path.relative_to(root)) for path in archives)} into that folder, "
            "set dataset.root or HYPERNETS_DATA to a folder that holds the set, "
            "or use the bundled sample data/cifar10_sample.npz."
        ) from error
    require_md5(extracted, remedy)


def require_md5(files: dict[Path, str], remedy: str) -> None:
    """Raises ValueError for the first of `files` that exists with another MD5 than the one given."""
    for path, expected in files.items():
        if path.is_file() and (found := calculate_md5(path)) != expected:
            raise ValueError(f"{path} is corrupt or incomplete: its MD5 is {found}, expected {expected}; {remedy}.")


def arrays(path: str | Path, root: str | Path | None = None) -> ImageArrays:
    """A user's own images: an .npz with x_train, y_train, x_test, y_test.

    If it also has x_validation and y_validation, those are its validation split.

    Images are uint8 [N, H, W, C] or, for grey ones, [N, H, W], with one H, W, C for all splits. Labels are
    integers [N]; the training labels take every value of 0 .. K - 1, the others no further one.

    Args:
        path: looked up as given, and then, if it is relative, from `root`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not as above; the message names the file and the array.
    """
    path = locate(path, root, "an .npz with x_train, y_train, x_test and y_test")
    found = _read_npz(path)
    required = ["x_train", "y_train", "x_test", "y_test"]
    if "x_validation" in found or "y_validation" in found:
        required += ["x_validation", "y_validation"]
    if missing := [key for key in required if key not in found]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(found) or 'no arrays'}, but must have "
            f"{', '.join(required)}."
        )

    splits = ["train", "test"] + (["validation"] if "x_validation" in found else [])
    images = {split: _checked_images(path, f"x_{split}", found[f"x_{split}"]) for split in splits}
    labels = {split: _checked_labels(path, f"y_{split}", found[f"y_{split}"], images[split]) for split in splits}
    for split in splits:
        if images[split].shape[1:] != images["train"].shape[1:]:
            raise ValueError(
                f"{path}: images of x_{split} are {list(images[split].shape[1:])}, but those of x_train are "
                f"{list(images['train'].shape[1:])} [H, W, C]; all must be of one size."
            )

    classes = np.unique(labels["train"])
    num_classes = len(classes)
    if num_classes < 2 or not np.array_equal(classes, np.arange(num_classes)):
        raise ValueError(
            f"{path}: y_train has {num_classes} different labels from {classes[0]} to {classes[-1]}, "
            "but labels must be 0, 1, ..., K - 1 with all of at least two classes present; renumber them."
        )
    for split in splits:
        if labels[split].min() < 0 or labels[split].max() >= num_classes:
            raise ValueError(
                f"{path}: labels of y_{split} go from {labels[split].min()} to {labels[split].max()}, "
                f"but those of y_train go from 0 to {num_classes - 1}; "
                "every class must be among the training examples."
            )
    return ImageArrays(
        images["train"],
        labels["train"],
        images["test"],
        labels["test"],
        num_classes=num_classes,
        validation_images=images.get("validation"),
        validation_labels=labels.get("validation"),
    )


def locate(path: str | Path, root: str | Path | None, expected: str) -> Path:
    """The file `path` as it is given or, if that is relative, from `root`.

    Raises:
        FileNotFoundError: there is neither; the message says to set dataset.path to what is `expected`.
    """
    path = Path(path).expanduser()
    tried = [path]
    if root is not None and not path.is_absolute():
        tried.append(Path(root).expanduser() / path)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"There is no file {' and no file '.join(str(candidate) for candidate in tried)}: "
        f"set dataset.path to {expected}."
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} cannot be read as an .npz of plain arrays ({reason}); "
            "write it with numpy.savez_compressed from arrays of integers."
        ) from error


def _checked_images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: {key} is {images.dtype}, but images must be uint8, 0 to 255.")
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{path}: {key} has shape {list(images.shape)}, but images must be [N, H, W, C], or [N, H, W] if grey."
        )
    if images.size == 0:
        raise ValueError(f"{path}: {key} has shape {list(images.shape)}, but must hold at least one image.")
    return images if images.ndim == 4 else images[..., None]


def _checked_labels(path: Path, key: str, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {key} is {labels.dtype}, but labels must be integers.")
    if labels.shape != (len(images),):
        raise ValueError(
            f"{path}: {key} has shape {list(labels.shape)}, but must be [{len(images)}], one label for each image."
        )
    return labels.astype(np.int64)
