"""Checkpoints that are damaged, malicious, of another run, or cut short while they are written."""

import errno
import json
import os

import pytest
import torch

from hypernets import UserError
from training import checkpoint


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def state(step, best=None):
    generator = torch.Generator().manual_seed(step)
    content = dict.fromkeys(sorted(checkpoint.KEYS)) | {"run": "ours", "step": step, "best": best and {"step": best}}
    return content | {"network": {"a": torch.randn(3, 4, generator=generator)}, "metrics": {"size": 0}}


def best(step):
    return {"run": "ours", "step": step, "network": {"a": torch.full((2,), step)}}


def saved(path, run="ours"):
    return checkpoint.load(path, run, {"step"})


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"step")] ^= 0x10  # not a byte of the padding
    path.write_bytes(content)


def take_from_another_run(path):
    torch.save(torch.load(path, weights_only=True) | {"run": "theirs"}, path)


def take_a_key(path):
    content = torch.load(path, weights_only=True)
    del content["network"]
    torch.save(content, path)


def make_a_list(path):
    torch.save([1, 2], path)


def resumed(directory):
    """What a run goes on from, after the moves that `Run.start` makes."""
    before = {path: path.read_bytes() for path in directory.iterdir()}
    state, moves = checkpoint.load_checkpoint(directory, "ours")
    assert before == {path: path.read_bytes() for path in directory.iterdir()}, "a resume may still be refused"
    for old, new in moves:
        os.replace(old, new)
    return state


DAMAGES = pytest.mark.parametrize(
    "damage", [truncate, flip_a_byte, take_from_another_run, take_a_key, make_a_list, os.unlink]
)


@DAMAGES
def test_damaged_newest_falls_back_and_says_so(tmp_path, assert_same, capsys, damage):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, state(step))
    damage(tmp_path / checkpoint.NEWEST)
    assert_same(checkpoint.read_newest(tmp_path, "ours")[0], state(1))
    assert capsys.readouterr().err == ""  # that one is silent, and leaves the file where it is
    assert_same(resumed(tmp_path), state(1))
    said = capsys.readouterr().err
    assert str(tmp_path / checkpoint.NEWEST) in said and f"{checkpoint.PREVIOUS} (step 1)" in said
    # What is saved next must not move the damaged file over the complete one.
    checkpoint.save_checkpoint(tmp_path, state(3))
    truncate(tmp_path / checkpoint.NEWEST)
    assert_same(resumed(tmp_path), state(1))


@DAMAGES
def test_damaged_best_network_gives_way_to_the_one_before(tmp_path, capsys, damage):
    for step in (1, 2):
        checkpoint.save_best(tmp_path, best(step))
    checkpoint.save_checkpoint(tmp_path, state(3, best=1))
    damage(tmp_path / checkpoint.BEST)
    assert checkpoint.load_best(tmp_path, "ours")["step"] == 1
    assert resumed(tmp_path)["best"] == {"step": 1}
    assert capsys.readouterr().err == "" and saved(tmp_path / checkpoint.BEST)["step"] == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (take_from_another_run, "belongs to another run"),
        (os.unlink, "There is no checkpoint"),
    ],
)
def test_both_damaged(tmp_path, damage, words):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, state(step))
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        damage(tmp_path / name)
    with pytest.raises(UserError, match=f"{checkpoint.NEWEST} .*{words}|{words}.*{checkpoint.NEWEST}") as refused:
        checkpoint.load_checkpoint(tmp_path, "ours")
    assert checkpoint.PREVIOUS in str(refused.value)


def test_any_flipped_byte_is_detected_or_harmless(tmp_path, assert_same):
    path = tmp_path / "checkpoint.pt"
    torch.save(state(1), path)
    content = path.read_bytes()
    detected = 0
    for position in range(0, len(content), 11):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            loaded = checkpoint.load(path, "ours", checkpoint.KEYS)
        except UserError:
            detected += 1
        else:
            assert_same(loaded, state(1), f"byte {position}")
    assert detected > len(content) / 11 / 4  # the rest are padding, and fields that are there twice


@pytest.mark.parametrize("name", [checkpoint.NEWEST, checkpoint.BEST])
def test_malicious_file_is_refused(tmp_path, name):
    """Also where the one before would do: it is not there by accident."""
    witness = tmp_path / "executed"
    for step in (1, 2):
        checkpoint.save_best(tmp_path, best(step))
        checkpoint.save_checkpoint(tmp_path, state(step, best=1))
    torch.save(state(2, best=1) | {"network": Malicious(witness)}, tmp_path / name)
    with pytest.raises(checkpoint.UnsafeCheckpoint, match=f"{name} holds more than tensors"):
        checkpoint.load_checkpoint(tmp_path, "ours")
    assert not witness.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert witness.exists(), "the file must be one that does harm when it is loaded without care"


def test_full_disk_leaves_the_old_files_and_gives_the_reason(tmp_path, monkeypatch, assert_same):
    for number in (1, 2):
        checkpoint.save_checkpoint(tmp_path, state(number))

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=f"{checkpoint.NEWEST} .No space left on device.*kept.*-r"):
            checkpoint.save_checkpoint(tmp_path, state(3))
    assert not list(tmp_path.glob("*.tmp"))
    assert_same(resumed(tmp_path), state(2))
    assert_same(saved(tmp_path / checkpoint.PREVIOUS), state(1))
    checkpoint.save_checkpoint(tmp_path, state(4))
    assert_same(resumed(tmp_path), state(4))


def test_resumed_from_the_previous_checkpoint_ends_the_same(launcher, finished, unfinished, assert_same_run):
    truncate(unfinished / checkpoint.NEWEST)
    done = launcher.succeed("-r", str(unfinished))
    assert "(step 4)" in done.stderr and "Traceback" not in done.stderr
    assert_same_run(finished, unfinished)
    sessions = json.loads((unfinished / "sessions.json").read_text())
    assert [session["first_step"] for session in sessions] == [0, 4]
