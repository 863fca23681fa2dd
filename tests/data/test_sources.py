"""Sources: what is read, and one sentence for whatever is missing, corrupt or of another form."""

import gzip
import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from torchvision.datasets import CIFAR10, MNIST

from data import sources
from data.build import build_images
from data.sources import arrays, cifar10, mnist

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE = PROJECT / "data" / "cifar10_sample.npz"
REAL = Path(os.environ.get("HYPERNETS_DATA", PROJECT / "data" / "cache"))
MNIST_RAW = REAL / "MNIST" / "raw"
CIFAR10_ARRAYS = REAL / "cifar10" / "cifar10.npz"
needs_mnist = pytest.mark.skipif(not MNIST_RAW.is_dir(), reason="MNIST is not in HYPERNETS_DATA")
needs_cifar10 = pytest.mark.skipif(not CIFAR10_ARRAYS.is_file(), reason="cifar10.npz is not in HYPERNETS_DATA")


def refusal(kind, function, *arguments):
    """The message of the expected error, checked to be one line that ends like a sentence."""
    with pytest.raises(kind) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def no_network(monkeypatch):
    def fail(url, *_, **__):
        raise URLError("no network in this test")

    for name in ("_get_redirect_url", "_urlretrieve"):
        monkeypatch.setattr(torchvision.datasets.utils, name, fail)


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A root with an archive of CIFAR-10's form, four images a file, and the checksums to match."""
    root, build = tmp_path / "root", tmp_path / "build" / CIFAR10.base_folder
    root.mkdir()
    build.mkdir(parents=True)
    rng = np.random.RandomState(1)

    def write(name, entry):
        (build / name).write_bytes(pickle.dumps(entry))
        return md5(build / name)

    def batch():
        return {
            "data": rng.randint(0, 256, (4, 3072), dtype=np.uint8),
            "labels": rng.randint(0, 10, 4).tolist(),
        }

    train, test = [batch() for _ in range(5)], batch()
    train_list = [[f"data_batch_{i}", write(f"data_batch_{i}", entry)] for i, entry in enumerate(train, 1)]
    monkeypatch.setattr(CIFAR10, "train_list", train_list)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", test)]])
    meta = {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": [str(i) for i in range(10)]})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(build, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(root / CIFAR10.filename))
    return root, train, test


def test_cifar10_is_read_from_the_archive_and_then_from_the_folder(small_cifar10, no_network):
    root, train, test = small_cifar10
    for _ in range(2):
        loaded = cifar10(root)
        assert loaded.train_images.shape == (20, 32, 32, 3) and loaded.test_images.shape == (4, 32, 32, 3)
        assert loaded.train_images.dtype == np.uint8 and loaded.num_classes == 10
        # The published layout is one plane a channel.
        np.testing.assert_array_equal(loaded.train_images[4, ..., 1].ravel(), train[1]["data"][0, 1024:2048])
        assert loaded.train_labels.tolist() == [label for entry in train for label in entry["labels"]]
        assert loaded.test_labels.tolist() == test["labels"]
        (root / CIFAR10.filename).unlink(missing_ok=True)


def test_cifar10_refuses_a_corrupt_archive_and_leaves_it(small_cifar10, no_network):
    root, _, _ = small_cifar10
    archive = root / CIFAR10.filename
    archive.write_bytes(archive.read_bytes()[:-1])
    before = contents(root)
    message = refusal(ValueError, cifar10, root)
    assert str(archive) in message and CIFAR10.tgz_md5 in message and md5(archive) in message
    assert contents(root) == before


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_cifar10_refuses_a_corrupt_file_in_the_folder_and_leaves_it(small_cifar10, no_network, name):
    root, _, _ = small_cifar10
    cifar10(root)
    (root / CIFAR10.base_folder / name).write_bytes(b"something else")
    before = contents(root)
    assert str(root / CIFAR10.base_folder / name) in refusal(ValueError, cifar10, root)
    assert contents(root) == before


@pytest.mark.parametrize(("source", "archive"), [(cifar10, CIFAR10.filename), (mnist, "train-images-idx3-ubyte.gz")])
def test_missing_set_without_network_says_what_to_do(tmp_path, no_network, source, archive):
    message = refusal(FileNotFoundError, source, tmp_path / "nowhere")
    for part in (
        tmp_path / "nowhere",
        archive,
        "no network in this test",
        "HYPERNETS_DATA",
        "cifar10_sample.npz",
    ):
        assert str(part) in message


def test_root_that_cannot_be_made_is_one_sentence(tmp_path, no_network):
    (tmp_path / "file").touch()
    assert "file" in refusal(FileNotFoundError, cifar10, tmp_path / "file" / "below")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A root with files of MNIST's form, 3 training and 2 test images, and the checksums to match."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    sizes = {"train-images-idx3": 3, "train-labels-idx1": 3, "t10k-images-idx3": 2, "t10k-labels-idx1": 2}
    for name, size in sizes.items():
        body = np.arange(size * 784) % 251 if "images" in name else np.arange(size) + 5
        header = (b"\0\0\x08\x03", size, 28, 28) if "images" in name else (b"\0\0\x08\x01", size)
        packed = header[0] + b"".join(number.to_bytes(4, "big") for number in header[1:])
        (raw / f"{name}-ubyte").write_bytes(packed + body.astype(np.uint8).tobytes())
    checksums = {path.name: md5(path) for path in raw.iterdir()}
    monkeypatch.setattr(sources, "MNIST_RAW_MD5", checksums)
    return tmp_path


def test_mnist_is_read_with_one_channel(small_mnist):
    loaded = mnist(small_mnist)
    assert loaded.train_images.shape == (3, 28, 28, 1) and loaded.test_images.shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(loaded.train_images.ravel(), np.arange(3 * 784) % 251)
    assert loaded.train_labels.tolist() == [5, 6, 7] and loaded.test_labels.tolist() == [5, 6]
    assert loaded.train_labels.dtype == np.int64


@pytest.mark.parametrize("name", list(sources.MNIST_RAW_MD5))
def test_mnist_refuses_a_corrupt_raw_file_and_leaves_it(small_mnist, no_network, name):
    path = small_mnist / "MNIST" / "raw" / name
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    before = contents(small_mnist)
    assert str(path) in refusal(ValueError, mnist, small_mnist)
    assert contents(small_mnist) == before


def test_mnist_refuses_a_corrupt_archive_and_leaves_it(tmp_path, no_network):
    archive = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(gzip.compress(b"something else"))
    before = contents(tmp_path)
    assert str(archive) in refusal(ValueError, mnist, tmp_path)
    assert contents(tmp_path) == before


@needs_mnist
def test_real_mnist_passes_its_checksums_and_agrees_with_torchvision():
    loaded = mnist(REAL)
    assert loaded.train_images.shape == (60000, 28, 28, 1) and loaded.test_images.shape == (10000, 28, 28, 1)
    expected = MNIST(REAL, train=False)
    np.testing.assert_array_equal(loaded.test_images[..., 0], expected.data.numpy())
    np.testing.assert_array_equal(loaded.test_labels, expected.targets.numpy())


@needs_mnist
def test_one_changed_pixel_of_real_mnist_is_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in sources.MNIST_RAW_MD5:
        shutil.copy(MNIST_RAW / name, raw / name)
    path = raw / "t10k-images-idx3-ubyte"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01")
    assert str(path) in refusal(ValueError, mnist, tmp_path)


@needs_cifar10
def test_real_cifar10_arrays_build_the_split_of_the_paper():
    splits = build_images(
        source="arrays", root=REAL, path="cifar10/cifar10.npz", batch_size=128, padding=2, flip=True,
        test_subsets={"test_lossless": [0, 1000]},
    )  # fmt: skip
    assert splits.train.num_examples == 45000 and splits.validation.num_examples == 5000
    assert splits.test["test"].num_examples == 10000 and splits.test["test_lossless"].num_examples == 1000
    images, labels = splits.train.batch(splits.train.steps_per_epoch)
    assert images.shape == (128, 3, 32, 32) and labels.min() >= 0 and labels.max() < splits.num_classes == 10


def write(path, **changes):
    """An .npz of 6 training and 4 test images of two classes, with `changes`; None leaves an array out."""
    rng = np.random.RandomState(2)
    good = {
        "x_train": rng.randint(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_test": rng.randint(0, 256, (4, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([1, 1, 1, 0]),
    }
    good = {key: array for key, array in (good | changes).items() if array is not None}
    np.savez(path, **good)
    return good


def images(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype=dtype)


def test_arrays_are_read_as_written(tmp_path):
    good = write(tmp_path / "a.npz", y_train=np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8))
    loaded = arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.train_images, good["x_train"])
    np.testing.assert_array_equal(loaded.test_labels, good["y_test"])
    assert loaded.train_labels.dtype == np.int64 and loaded.num_classes == 2
    assert loaded.validation_images is None and loaded.validation_labels is None


def test_grey_images_get_a_channel_and_validation_arrays_are_used(tmp_path):
    path = tmp_path / "grey.npz"
    grey = {"x_train": images(6, 5, 4), "x_test": images(4, 5, 4)}
    write(path, **grey, x_validation=images(2, 5, 4) + 9, y_validation=np.array([1, 0]))
    loaded = arrays(path)
    assert loaded.train_images.shape == (6, 5, 4, 1) and loaded.validation_images.shape == (2, 5, 4, 1)
    splits = build_images(source="arrays", root=tmp_path, path=path, batch_size=6)
    assert splits.train.num_examples == 6 and splits.validation.num_examples == 2
    assert next(splits.validation.evaluation_batches(2))[1].tolist() == [1, 0]


def test_a_relative_path_is_looked_up_as_given_and_then_from_the_root(tmp_path, monkeypatch):
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    monkeypatch.chdir(here)
    write(root / "a.npz", y_test=np.array([0, 0, 0, 0]))
    assert arrays("a.npz", root).test_labels.tolist() == [0, 0, 0, 0]
    write(here / "a.npz", y_test=np.array([1, 1, 1, 1]))
    assert arrays("a.npz", root).test_labels.tolist() == [1, 1, 1, 1]
    message = refusal(FileNotFoundError, arrays, "b.npz", root)
    assert "no file b.npz" in message and str(root / "b.npz") in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(x_test=None, y_test=None), "lacks x_test, y_test; it has x_train, y_train"),
        (dict(x_validation=images(2, 5, 4, 3)), "lacks y_validation"),
        (dict(x_train=images(6, 5, 4, 3, dtype=np.float32)), "x_train is float32, but images must be uint8"),
        (dict(x_test=images(4, 60)), "x_test has shape [4, 60]"),
        (dict(x_test=images(0, 5, 4, 3), y_test=np.arange(0)), "x_test has shape [0, 5, 4, 3]"),
        (
            dict(x_test=images(4, 5, 5, 3)),
            "images of x_test are [5, 5, 3], but those of x_train are [5, 4, 3]",
        ),
        (dict(y_train=np.zeros(6)), "y_train is float64, but labels must be integers"),
        (dict(y_train=np.array([0, 1, 0])), "y_train has shape [3], but must be [6]"),
        (dict(y_test=np.array([[0], [1], [0], [1]])), "y_test has shape [4, 1], but must be [4]"),
        (dict(y_train=np.array([1, 2, 1, 2, 1, 2])), "y_train has 2 different labels from 1 to 2"),
        (dict(y_train=np.array([0, 2, 0, 2, 0, 2])), "y_train has 2 different labels from 0 to 2"),
        (dict(y_train=np.array([-1, 0, 1, 0, 1, 0])), "from -1 to 1"),
        (dict(y_train=np.zeros(6, dtype=int)), "y_train has 1 different labels"),
        (dict(y_test=np.array([0, 1, 2, 0])), "y_test go from 0 to 2, but those of y_train go from 0 to 1"),
        (dict(y_test=np.array([0, 1, -1, 0])), "y_test go from -1 to 1"),
        (dict(y_train=np.array([0, "a"] * 3, dtype=object)), "cannot be read as an .npz of plain arrays"),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "mine.npz"
    write(path, **changes)
    refused = refusal(ValueError, arrays, path)
    assert str(path) in refused and message in refused


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "bit flipped", "single array"])
def test_files_that_are_no_npz_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "mine.npz"
    write(path)
    whole = path.read_bytes()
    if damage == "single array":
        np.save(tmp_path / "one.npy", np.arange(3))
        (tmp_path / "one.npy").replace(path)
    else:
        flipped = whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]
        path.write_bytes({"empty": b"", "text": b"images", "truncated": whole[:900], "bit flipped": flipped}[damage])
    assert str(path) in refusal(ValueError, arrays, path)


def test_sample_is_small_class_balanced_and_without_duplicates():
    assert SAMPLE.stat().st_size <= 6_000_000
    loaded = arrays(SAMPLE)
    for labels, per_class in (
        (loaded.train_labels, 140),
        (loaded.validation_labels, 20),
        (loaded.test_labels, 30),
    ):
        assert np.bincount(labels).tolist() == [per_class] * 10
    every = np.concatenate([loaded.train_images, loaded.validation_images, loaded.test_images])
    assert every.shape == (1900, 32, 32, 3)
    assert len({image.tobytes() for image in every}) == len(every)


def test_sample_is_the_one_its_page_describes():
    assert hashlib.sha256(SAMPLE.read_bytes()).hexdigest() in (SAMPLE.parent / "README.md").read_text()


@needs_cifar10
def test_sample_images_are_in_the_right_part_of_cifar10():
    sample, whole = arrays(SAMPLE), arrays(CIFAR10_ARRAYS)

    def labelled(images, labels):
        return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}

    train = labelled(whole.train_images[:4000], whole.train_labels[:4000])
    assert labelled(sample.train_images, sample.train_labels) <= train
    assert labelled(sample.validation_images, sample.validation_labels) <= train
    lossless = labelled(whole.test_images[:1000], whole.test_labels[:1000])
    assert labelled(sample.test_images, sample.test_labels) <= lossless
