"""Checkpoints that are damaged, malicious, or cut short while they are written."""

import json
import os
import shutil

import pytest
import torch

from training import checkpoint

SHORT = ("budget.steps=6", "budget.log_every=1", "budget.validate_every=3", "budget.checkpoint_every=2")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def state(step):
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": {"a": torch.randn(3, 4, generator=generator)}, "best": None, "carried": [None]}


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"step")] ^= 0x10  # not a byte of the padding
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_launcher):
    """A finished run of six steps; tests change copies of it."""
    launcher = make_launcher(tmp_path_factory.mktemp("finished"))
    done = launcher.call(*launcher.new(*SHORT))
    assert done.returncode == 0, done.stderr
    return launcher.only_run()


@pytest.fixture
def unfinished(finished, launcher):
    """A copy of the finished run that looks as if it had been killed before its result."""
    run = shutil.copytree(finished, launcher.runs / finished.name)
    (run / "result.json").unlink()
    return run


def test_newest_and_previous_are_kept(tmp_path, assert_same):
    for step in (1, 2, 3):
        checkpoint.save_checkpoint(tmp_path, state(step))
    assert_same(checkpoint.load_checkpoint(tmp_path), state(3))
    assert_same(checkpoint.load(tmp_path / checkpoint.PREVIOUS), state(2))
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.NEWEST, checkpoint.PREVIOUS}


@DAMAGES
def test_damaged_newest_falls_back_with_a_warning(tmp_path, assert_same, damage):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, state(step))
    damage(tmp_path / checkpoint.NEWEST)
    assert_same(checkpoint.read_newest(tmp_path)[0], state(1))  # silent, and leaves the file where it is
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is .* Continuing from .*previous.* \(step 1\) instead"):
        assert_same(checkpoint.load_checkpoint(tmp_path), state(1))
    # What is saved next must not move the damaged file over the complete one.
    checkpoint.save_checkpoint(tmp_path, state(3))
    truncate(tmp_path / checkpoint.NEWEST)
    with pytest.warns(UserWarning, match="Continuing"):
        assert_same(checkpoint.load_checkpoint(tmp_path), state(1))


def test_killed_between_the_two_renames(tmp_path, assert_same):
    checkpoint.save_checkpoint(tmp_path, state(1))
    os.replace(tmp_path / checkpoint.NEWEST, tmp_path / checkpoint.PREVIOUS)
    assert_same(checkpoint.load_checkpoint(tmp_path), state(1))


def test_any_flipped_byte_is_detected_or_harmless(tmp_path, assert_same):
    path = tmp_path / "checkpoint.pt"
    torch.save(state(1), path)
    content = path.read_bytes()
    detected = 0
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            loaded = checkpoint.load(path)
        except ValueError:
            detected += 1
        else:
            assert_same(loaded, state(1), f"byte {position}")
    assert detected > len(content) / 3 / 4  # the rest are padding, and fields that are there twice


@DAMAGES
def test_resumed_from_the_previous_checkpoint_ends_the_same(
    launcher, finished, unfinished, assert_same, assert_same_run, damage
):
    damage(unfinished / checkpoint.NEWEST)
    with pytest.warns(UserWarning, match=r"Continuing from .* \(step 4\) instead"):
        done = launcher.call("-r", str(unfinished))
    assert done.returncode == 0, done.stderr
    assert_same_run(finished, unfinished)
    sessions = json.loads((unfinished / "sessions.json").read_text())
    assert [session["first_step"] for session in sessions] == [0, 4]


def test_warning_of_a_process_is_seen(launcher, unfinished):
    truncate(unfinished / checkpoint.NEWEST)
    done = launcher.run("-r", str(unfinished))
    assert done.returncode == 0
    assert "checkpoint.pt is truncated" in done.stderr and "Continuing from" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_damaged(launcher, unfinished, assert_one_line):
    truncate(unfinished / checkpoint.NEWEST)
    flip_a_byte(unfinished / checkpoint.PREVIOUS)
    done = launcher.call("-r", str(unfinished))
    assert_one_line(done, str(unfinished / checkpoint.NEWEST), str(unfinished / checkpoint.PREVIOUS), "corrupt")


def test_malicious_checkpoint_is_refused(launcher, unfinished, tmp_path, assert_one_line):
    witness = tmp_path / "executed"
    torch.save({"step": 6, "main_network": Malicious(witness)}, unfinished / checkpoint.NEWEST)
    done = launcher.call("-r", str(unfinished))
    assert_one_line(done, str(unfinished / checkpoint.NEWEST), "more than tensors and plain values", "not loaded")
    assert not witness.exists()
    torch.load(unfinished / checkpoint.NEWEST, weights_only=False)
    assert witness.exists(), "the file must be one that does harm when it is loaded without care"


def test_malicious_best_network_is_refused(launcher, unfinished, tmp_path, assert_one_line):
    witness = tmp_path / "executed"
    torch.save({"step": 6, "main_network": Malicious(witness)}, unfinished / checkpoint.BEST)
    assert_one_line(launcher.call("-r", str(unfinished)), "best.pt holds more than tensors")
    assert not witness.exists()


@pytest.mark.parametrize("when", ["while writing", "before the rename"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, assert_same, when):
    # torch.save turns an OSError into a RuntimeError of its own
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, state(step))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    def write_some_then_fail(value, file):
        file.write(b"PK")
        fail()

    if when == "while writing":
        monkeypatch.setattr(torch, "save", write_some_then_fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="checkpoint.pt .*kept.*resume with -r"):
        checkpoint.save_checkpoint(tmp_path, state(3))
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.tmp"))
    assert_same(checkpoint.load_checkpoint(tmp_path), state(2))
    assert_same(checkpoint.load(tmp_path / checkpoint.PREVIOUS), state(1))
    checkpoint.save_checkpoint(tmp_path, state(4))  # in spite of what the failed write left behind
    assert_same(checkpoint.load_checkpoint(tmp_path), state(4))


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint in"):
        checkpoint.load_checkpoint(tmp_path)
