"""Where images come from: CIFAR-10, MNIST and Fashion-MNIST through torchvision, or arrays in a user's .npz file.

Every file of a public set is checked against its published MD5 before it is read. A file that fails is named
and left as it is: nothing is deleted, overwritten or downloaded over it.
"""

import math
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from data.files import locate, require_md5, require_memory
from hypernets.errors import UserError

# torchvision publishes the MD5 of the .gz files only; these are of the files inside them.
MNIST_RAW_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MNIST_RAW_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
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


def cifar10(root: Path) -> ImageArrays:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour images of 32x32, downloaded to `root` if absent."""
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    files = (*CIFAR10.train_list, *CIFAR10.test_list, meta)
    extracted = {root / CIFAR10.base_folder / name: md5 for name, md5 in files}
    _require_files("CIFAR-10", CIFAR10, root, extracted, {root / CIFAR10.filename: CIFAR10.tgz_md5})

    def split(train: bool) -> tuple[np.ndarray, np.ndarray]:
        published = CIFAR10(root, train=train)
        return np.ascontiguousarray(published.data), np.array(published.targets, dtype=np.int64)

    return ImageArrays(*split(train=True), *split(train=False), num_classes=10)


def mnist(root: Path) -> ImageArrays:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey images of 28x28, downloaded to `root` if absent."""
    return _mnist_files(root, "MNIST", MNIST, MNIST_RAW_MD5)


def fashion_mnist(root: Path) -> ImageArrays:
    """Fashion-MNIST (Xiao et al. 2017): clothes in place of digits, otherwise like MNIST."""
    return _mnist_files(root, "Fashion-MNIST", FashionMNIST, FASHION_MNIST_RAW_MD5)


def _mnist_files(root: Path, title: str, dataset: type[MNIST], md5: dict[str, str]) -> ImageArrays:
    raw = root / dataset.__name__ / "raw"
    extracted = {raw / name: md5 for name, md5 in md5.items()}
    _require_files(title, dataset, root, extracted, {raw / name: md5 for name, md5 in dataset.resources})

    def split(name: str) -> tuple[np.ndarray, np.ndarray]:
        images = np.fromfile(raw / f"{name}-images-idx3-ubyte", dtype=np.uint8, offset=16)
        labels = np.fromfile(raw / f"{name}-labels-idx1-ubyte", dtype=np.uint8, offset=8)
        return images.reshape(-1, 28, 28, 1), labels.astype(np.int64)

    return ImageArrays(*split("train"), *split("t10k"), num_classes=10)


def _require_files(
    title: str, dataset: type, root: Path, extracted: dict[Path, str], archives: dict[Path, str]
) -> None:
    """Check what `root` has of a public set, and download the set if `extracted` is not complete."""
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
        raise UserError(
            f"{title} is not in {root} and could not be downloaded ({reason}); "
            f"put {' and '.join(str(path.relative_to(root)) for path in archives)} into that folder, "
            "set dataset.root or HYPERNETS_DATA to a folder that has the set, "
            "or use the bundled sample (dataset=cifar10_sample)."
        ) from error
    require_md5(extracted, remedy)


def arrays(root: Path, path: str | Path | None = None) -> ImageArrays:
    """A user's own images: an .npz with x_train, y_train, x_test, y_test.

    If it also has x_validation and y_validation, those are its validation split.

    Images are uint8 [N, H, W, C] or, for grey ones, [N, H, W], with one H, W, C for all splits. Labels are
    integers [N]. The training labels take every value of 0 .. K - 1, and the others none beyond these. The file is
    found by `locate`.
    """
    path = locate(root, path, "an .npz with x_train, y_train, x_test and y_test")
    found = _read_npz(path)
    splits = ["train", "test"]
    if "x_validation" in found or "y_validation" in found:
        splits.append("validation")
    required = [f"{array}_{split}" for split in splits for array in "xy"]
    if missing := [key for key in required if key not in found]:
        raise UserError(f"{path} lacks {', '.join(missing)}; save {', '.join(required)} in it.")

    images = {split: _checked_images(path, f"x_{split}", found[f"x_{split}"]) for split in splits}
    labels = {split: _checked_labels(path, f"y_{split}", found[f"y_{split}"], images[split]) for split in splits}
    for split in splits:
        if images[split].shape[1:] != images["train"].shape[1:]:
            raise UserError(
                f"{path}: images of x_{split} are {list(images[split].shape[1:])}, but those of x_train are "
                f"{list(images['train'].shape[1:])} [H, W, C]; save images of one size."
            )

    classes = {split: np.unique(labels[split]) for split in splits}
    num_classes = len(classes["train"])
    for split, present in classes.items():
        if num_classes < 2 or present[0] < 0 or present[-1] >= num_classes:
            raise UserError(
                f"{path}: labels of y_{split} go from {present[0]} to {present[-1]}, and y_train has {num_classes} "
                "different ones, but they must be 0, 1, ..., K - 1 for a K of at least 2, all of them in y_train; "
                "renumber them."
            )
    arrays_of = {split: (images[split], labels[split]) for split in splits}
    return ImageArrays(*arrays_of["train"], *arrays_of["test"], num_classes, *arrays_of.get("validation", ()))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays whose names begin with "x_" or "y_"; others are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.startswith(("x_", "y_"))]
            require_memory(path, sum(member.file_size for member in members))
            return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except UserError:
        raise
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path} cannot be read as an .npz of plain arrays ({reason}); "
            "write it with numpy.savez_compressed from arrays of integers."
        ) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    numpy_format = np.lib.format
    with archive.open(member) as file:
        is_short = numpy_format.read_magic(file) == (1, 0)
        read_header = numpy_format.read_array_header_1_0 if is_short else numpy_format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        claimed, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if claimed != held and not dtype.hasobject:  # numpy would allocate what the header claims
            raise ValueError(f"the header of {member.filename} claims {claimed:,} bytes, but it holds {held:,}")
        file.seek(0)
        return numpy_format.read_array(file, allow_pickle=False)


def _checked_images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    """The images as [N, H, W, C]."""
    shape = list(images.shape)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise UserError(
            f"{path}: {key} is {images.dtype} {shape}, but images must be uint8 (0 to 255) [N, H, W, C], or [N, H, W] "
            "if grey, with N of at least 1; convert them."
        )
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise UserError(
            f"{path}: {key} has shape {shape}, which looks like [N, C, H, W], but images must be [N, H, W, C]; "
            f"save {key}.transpose(0, 2, 3, 1)."
        )
    return images if images.ndim == 4 else images[..., None]


def _checked_labels(path: Path, key: str, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise UserError(
            f"{path}: {key} is {labels.dtype} {list(labels.shape)}, but labels must be integers [{len(images)}], "
            "one per image; convert them."
        )
    return labels.astype(np.int64)
