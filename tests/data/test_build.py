"""From settings to splits: what each kind reads, where files are looked for, and one sentence per mistake."""

import numpy as np
import pytest
import torch

from data.build import build_images, build_text

TEXT = {"kind": "text", "path": "my.txt", "batch_size": 2, "sequence_length": 5}


def images(settings, world_size=1):
    return build_images(settings, seed=0, device="cpu", rank=0, world_size=world_size)


def text(settings, world_size=1):
    return build_text(settings, device="cpu", rank=0, world_size=world_size)


@pytest.fixture
def root(tmp_path):
    """A root with a text and two files of 50 training images, the second with a validation split."""
    pixels = np.random.RandomState(0).randint(0, 256, (50, 6, 8, 3), dtype=np.uint8)
    labels = np.arange(50) % 5
    both = {"x_train": pixels, "y_train": labels, "x_test": pixels[:20], "y_test": labels[:20]}
    np.savez(tmp_path / "mine.npz", **both)
    np.savez(tmp_path / "split.npz", **both, x_validation=pixels[:4], y_validation=labels[:4])
    (tmp_path / "my.txt").write_text("abc\n" * 50)
    return tmp_path


@pytest.fixture
def mine(root):
    """The settings of the first of the two."""
    return {"kind": "arrays", "root": str(root), "path": "mine.npz", "batch_size": 8}


def test_splits_of_images(mine):
    splits = images(mine | {"validation_size": 10, "padding": 2})
    assert [split.num_examples for split in (splits.train, splits.validation, splits.test)] == [40, 10, 20]
    assert splits.num_classes == 5 and splits.image_shape == (3, 6, 8)
    (train, _), (test, _) = next(splits.train.evaluation_batches()), next(splits.test.evaluation_batches())
    torch.testing.assert_close(train.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert test.mean(dim=(0, 2, 3)).abs().min() > 1e-4  # the statistics are those of the training split


def test_validation_split_is_drawn_by_its_own_seed_or_comes_with_the_file(mine, refusal):
    def held_out(**settings):
        return next(images(mine | settings).validation.evaluation_batches())[0]

    assert len(held_out()) == 5  # a tenth
    assert torch.equal(held_out(), held_out(validation_size=5, split_seed=0))
    assert not torch.equal(held_out(), held_out(split_seed=1))
    assert len(held_out(path="split.npz")) == 4
    for setting, value in (("validation_size", 4), ("split_seed", 0)):
        assert f"{setting} is {value}" in refusal(images, mine | {"path": "split.npz", setting: value})


def test_splits_of_a_text_and_their_digest(root):
    settings = TEXT | {"root": str(root)}
    splits = text(settings | {"test_streams": 10**30, "warm_up": 10**30})
    assert splits.vocabulary == "\nabc" and splits.train.examples_per_step == 10
    (window,) = splits.test.evaluation_batches()
    assert window.inputs.shape == (9, 1)  # a text too short for its warm-up is read as one stream
    assert text(settings).digest == splits.digest
    (root / "my.txt").write_text("abc\n" * 49 + "acb\n")
    assert text(settings).digest != splits.digest


def test_relative_path_is_looked_up_here_then_in_the_root_then_among_the_bundled_files(root, monkeypatch):
    here = root / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    settings = TEXT | {"root": str(root), "path": "tinyshakespeare.txt"}
    assert len(text(settings | {"root": None}).vocabulary) == len(text(settings).vocabulary) == 65
    for folder, content in ((root, "in the root " * 9), (here, "here " * 50)):
        (folder / "tinyshakespeare.txt").write_text(content)
        assert set(text(settings).vocabulary) == set(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "svhn"}, "cifar10, mnist, "),
        ({"kind": "mnist"}, "dataset.path"),  # which it does not read
        ({"path": None}, "dataset.path is not set"),
        ({"batch_size": 10**30}, "at most 45"),
        ({"padding": 10**12}, "at most 6"),
        ({"flip": "no"}, "flip is 'no'"),
        ({"validation_size": 50}, "validation_size is 50"),
    ],
)
def test_nonsense_for_images_is_refused(mine, refusal, changes, message):
    assert message in refusal(images, mine | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mnist"}, "ptb_char, enwik8, text"),
        ({"kind": "ptb_char"}, "dataset.path"),
        ({"batch_size": 10**30}, "too few"),
        ({"validation_streams": 1.5}, "validation_streams is 1.5"),
        ({"test_fraction": float("nan")}, "test_fraction is nan"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "validation_fraction"),
    ],
)
def test_nonsense_for_texts_is_refused(root, refusal, changes, message):
    assert message in refusal(text, TEXT | {"root": str(root)} | changes)


def test_batch_that_the_processes_cannot_share_is_refused(mine, refusal):
    assert "multiple of 2" in refusal(images, mine | {"batch_size": 9}, world_size=2)
    assert "multiple of 2" in refusal(text, TEXT | {"batch_size": 9}, world_size=2)
