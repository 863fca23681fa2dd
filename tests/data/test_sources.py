"""Sources of images: what is read, and one sentence for whatever is missing, corrupt or of another form."""

import hashlib
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from torchvision.datasets import CIFAR10, MNIST

from data import sources
from data.sources import arrays, cifar10, fashion_mnist, mnist

SAMPLE = Path(sources.__file__).parent / "cifar10_sample.npz"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def fail(url, *_, **__):
        raise URLError("no network in this test")

    for name in ("_get_redirect_url", "_urlretrieve"):
        monkeypatch.setattr(torchvision.datasets.utils, name, fail)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (cifar10, CIFAR10.filename),
        (cifar10, f"{CIFAR10.base_folder}/data_batch_3"),
        (mnist, "MNIST/raw/t10k-images-idx3-ubyte.gz"),
        (mnist, "MNIST/raw/t10k-images-idx3-ubyte"),
    ],
)
def test_corrupt_file_of_a_public_set_is_named_and_left_alone(tmp_path, refusal, source, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")
    assert f"{path} is corrupt" in refusal(source, tmp_path)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert path.read_bytes() == b"something else"


@pytest.mark.parametrize(("source", "archive"), [(cifar10, CIFAR10.filename), (mnist, "train-images-idx3-ubyte.gz")])
def test_missing_set_without_a_network_says_what_to_do(tmp_path, refusal, source, archive):
    message = refusal(source, tmp_path / "nowhere")
    for part in (tmp_path / "nowhere", archive, "no network in this test", "HYPERNETS_DATA", "cifar10_sample"):
        assert str(part) in message
    (tmp_path / "file").touch()
    assert "file" in refusal(source, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("source", "folder", "md5"),
    [(mnist, "MNIST", sources.MNIST_RAW_MD5), (fashion_mnist, "FashionMNIST", sources.FASHION_MNIST_RAW_MD5)],
)
def test_mnist_and_fashion_mnist_are_read_with_one_channel(tmp_path, monkeypatch, source, folder, md5):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for name in md5:
        size = 3 if name.startswith("train") else 2
        header, body = (16, np.arange(size * 784) % 251) if "images" in name else (8, np.arange(size) + 5)
        content = bytes(header) + body.astype(np.uint8).tobytes()
        (raw / name).write_bytes(content)
        monkeypatch.setitem(md5, name, hashlib.md5(content).hexdigest())
    loaded = source(tmp_path)
    assert loaded.train_images.shape == (3, 28, 28, 1) and loaded.test_images.shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(loaded.train_images.ravel(), np.arange(3 * 784) % 251)
    assert loaded.train_labels.tolist() == [5, 6, 7] and loaded.test_labels.tolist() == [5, 6]


def test_real_mnist_agrees_with_torchvision(real):
    root = real("MNIST/raw")
    loaded, expected = mnist(root), MNIST(root, train=False)
    assert loaded.train_images.shape == (60000, 28, 28, 1)
    np.testing.assert_array_equal(loaded.test_images[..., 0], expected.data.numpy())
    np.testing.assert_array_equal(loaded.test_labels, expected.targets.numpy())


def test_sample_is_drawn_from_real_cifar10(real):
    """The first 140 training images of each class, the next 20 for validation, and the first 30 test images."""
    loaded = cifar10(real("cifar-10-batches-py"))
    assert loaded.train_images.shape == (50000, 32, 32, 3) and len(loaded.test_labels) == 10000
    with np.load(SAMPLE) as sample:
        for split, labels, images, chosen in (
            ("train", loaded.train_labels, loaded.train_images, slice(0, 140)),
            ("validation", loaded.train_labels, loaded.train_images, slice(140, 160)),
            ("test", loaded.test_labels, loaded.test_images, slice(0, 30)),
        ):
            indices = np.sort(np.concatenate([np.flatnonzero(labels == label)[chosen] for label in range(10)]))
            np.testing.assert_array_equal(sample[f"x_{split}"], images[indices])
            np.testing.assert_array_equal(sample[f"y_{split}"], labels[indices])


def write(path, **changes):
    """An .npz of 6 training and 4 test images of two classes, with `changes`; None leaves an array out."""
    rng = np.random.RandomState(2)
    good = {
        "x_train": rng.randint(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8),
        "x_test": np.asfortranarray(rng.randint(0, 256, (4, 5, 4, 3), dtype=np.uint8)),
        "y_test": np.array([1, 1, 1, 0]),
    }
    good = {key: array for key, array in (good | changes).items() if array is not None}
    np.savez(path, **good)
    return good


def images(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype=dtype)


def test_arrays_are_read_as_written(tmp_path):
    good = write(tmp_path / "a.npz")
    loaded = arrays(tmp_path, "a.npz")
    for name, key in (("train_images", "x_train"), ("test_images", "x_test"), ("test_labels", "y_test")):
        np.testing.assert_array_equal(getattr(loaded, name), good[key])
    assert loaded.train_labels.dtype == np.int64 and loaded.num_classes == 2 and loaded.validation_images is None


def test_grey_images_get_a_channel_and_a_validation_split_is_read(tmp_path):
    grey = {"x_train": images(6, 5, 4), "x_test": images(4, 5, 4), "x_validation": images(2, 5, 4)}
    write(tmp_path / "grey.npz", **grey, y_validation=np.array([1, 0]))
    loaded = arrays(tmp_path, "grey.npz")
    assert loaded.train_images.shape == (6, 5, 4, 1) and loaded.validation_images.shape == (2, 5, 4, 1)
    assert loaded.validation_labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(x_test=None, y_test=None), "lacks x_test, y_test"),
        (dict(x_train=images(6, 5, 4, 3, dtype=np.float32)), "x_train is float32"),
        (dict(x_test=images(0, 5, 4, 3), y_test=np.arange(0)), "x_test is uint8 [0, 5, 4, 3]"),
        (dict(x_train=images(6, 3, 32, 32)), "x_train.transpose(0, 2, 3, 1)"),
        (dict(y_train=np.zeros(6)), "y_train is float64"),
        (dict(y_test=np.array([0, 1, 2, 0])), "y_test go from 0 to 2"),
        (dict(y_train=np.array([0, "a"] * 3, dtype=object)), "cannot be read as an .npz of plain arrays"),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(tmp_path, refusal, changes, message):
    path = tmp_path / "mine.npz"
    write(path, **changes)
    refused = refusal(arrays, tmp_path, path)
    assert str(path) in refused and message in refused


def test_files_that_are_no_npz_are_refused_by_name(tmp_path, refusal):
    path = tmp_path / "mine.npz"
    write(path)
    whole = path.read_bytes()
    for damaged in (b"", b"images", whole[:900], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        path.write_bytes(damaged)
        assert f"{path} cannot be read as an .npz" in refusal(arrays, tmp_path, path)


def test_sizes_that_are_only_claimed_are_refused_before_anything_is_allocated(tmp_path, refusal):
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x_train.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**10, 32, 32, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(3072))
    assert "30,720,000,000,000 bytes" in refusal(arrays, tmp_path, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"a bomb")
        archive.infolist()[0].file_size = 10**15
    assert "memory" in refusal(arrays, tmp_path, path)
