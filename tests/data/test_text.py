"""Text: windows of parallel streams, an evaluation that counts every character once, and one sentence a mistake."""

import hashlib
import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from data import text_sources
from data.build import build_text
from data.text import IGNORED, EvaluationStreams, TrainingStreams
from data.text_sources import encode, enwik8, ptb_char, readable, text

PROJECT = Path(__file__).resolve().parents[2]
SHAKESPEARE = PROJECT / "data" / "tinyshakespeare.txt"
REAL = Path(os.environ.get("HYPERNETS_DATA", PROJECT / "data" / "cache"))
needs_ptb = pytest.mark.skipif(not (REAL / "ptb").is_dir(), reason="Penn Treebank is not in HYPERNETS_DATA")


def refusal(kind, function, *arguments, **settings):
    """The message of the expected error, checked to be one line that ends like a sentence."""
    with pytest.raises(kind) as caught:
        function(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def positions(number):
    """A text whose ids are the positions of its characters."""
    return np.arange(number, dtype=np.int32)


# Training


def test_windows_of_a_stream_continue_each_other():
    streams = TrainingStreams(positions(107), batch_size=5, sequence_length=4)  # streams of 21, so 5 windows of 4
    windows = [streams.batch(step) for step in range(streams.steps_per_epoch)]
    assert (streams.steps_per_epoch, streams.examples_per_step) == (5, 20)
    inputs = torch.cat([window.inputs for window in windows])
    assert inputs.dtype == torch.int64 and inputs.shape == (20, 5)
    assert torch.equal(inputs, torch.arange(20)[:, None] + 21 * torch.arange(5))
    assert torch.equal(torch.cat([window.targets for window in windows]), inputs + 1)
    assert [window.is_first for window in windows] == [True, False, False, False, False]


def test_batch_is_a_pure_function_of_the_step():
    streams = TrainingStreams(positions(107), batch_size=5, sequence_length=4)
    in_order = [streams.batch(step) for step in range(10)]
    for step in (7, 2, 2, 9, 0):
        again = streams.batch(step)
        assert torch.equal(again.inputs, in_order[step].inputs) and again.is_first == in_order[step].is_first
    assert torch.equal(in_order[6].inputs, in_order[1].inputs)  # the next epoch
    assert in_order[5].is_first


def test_shares_of_the_ranks_are_the_batch():
    whole = TrainingStreams(positions(200), batch_size=6, sequence_length=4)
    shares = [TrainingStreams(positions(200), batch_size=6, sequence_length=4, rank=r, world_size=3) for r in range(3)]
    for step in (0, 3):
        for field in ("inputs", "targets"):
            together = torch.cat([getattr(share.batch(step), field) for share in shares], dim=1)
            assert torch.equal(together, getattr(whole.batch(step), field))
    assert all(share.examples_per_step == whole.examples_per_step for share in shares)


def test_training_text_may_be_just_long_enough():
    streams = TrainingStreams(positions(21), batch_size=5, sequence_length=4)
    assert streams.steps_per_epoch == 1 and streams.batch(0).targets.max() == 20
    message = refusal(ValueError, TrainingStreams, positions(20), batch_size=5, sequence_length=4)
    assert "20 characters" in message and "21" in message and "batch_size" in message


def test_streams_that_the_processes_cannot_share():
    message = refusal(ValueError, TrainingStreams, positions(99), batch_size=5, sequence_length=4, world_size=2)
    assert "multiple of 2" in message
    assert "sequence_length is 0" in refusal(
        ValueError, TrainingStreams, positions(99), batch_size=5, sequence_length=0
    )


# Evaluation


@pytest.mark.parametrize("number", [2, 3, 99, 100, 101, 1000])
@pytest.mark.parametrize("streams, warm_up, window, world_size", [(1, 10, 7, 1), (4, 10, 7, 1), (5, 3, 50, 3)])
def test_every_character_but_the_first_is_counted_once(number, streams, warm_up, window, world_size):
    counted = []
    for rank in range(world_size):
        settings = {"streams": streams, "warm_up": warm_up, "window": window, "rank": rank, "world_size": world_size}
        for inputs, targets, _ in EvaluationStreams(positions(number), **settings).evaluation_batches():
            assert len(inputs) <= window
            kept = targets != IGNORED
            assert torch.equal(targets[kept], inputs[kept] + 1)
            counted += targets[kept].tolist()
    assert sorted(counted) == list(range(1, number))


def test_streams_are_warmed_up_and_read_without_gaps():
    streams = EvaluationStreams(positions(1000), streams=4, warm_up=30, window=60)
    windows = list(streams.evaluation_batches())
    inputs, targets = (torch.cat([window[field] for window in windows]) for field in (0, 1))
    assert inputs.shape[1] == 4 and [window.is_first for window in windows] == [True] + [False] * (len(windows) - 1)
    assert (targets[:30, 1:] == IGNORED).all() and (targets[30:, 1] != IGNORED).all()
    assert (targets[:, 0] != IGNORED).all()
    assert (inputs[:-1, :3].diff(dim=0) == 1).all()


def test_short_text_is_evaluated_in_fewer_streams():
    (window,) = EvaluationStreams(positions(50), streams=64, warm_up=30).evaluation_batches()
    assert window.inputs.shape == (49, 1)
    assert "two" in refusal(ValueError, EvaluationStreams, positions(1))


# Sources


def test_bundled_text():
    digest = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert hashlib.sha256(SHAKESPEARE.read_bytes()).hexdigest() == digest
    loaded = text(SHAKESPEARE)
    assert len(loaded.vocabulary) == 65
    assert [len(split) for split in (loaded.train, loaded.validation, loaded.test)] == [1_003_855, 55_769, 55_770]


def write_ptb(root, monkeypatch, train, valid="a\n", test="b\n"):
    (root / "ptb").mkdir()
    for split, content in (("train", train), ("valid", valid), ("test", test)):
        (root / "ptb" / f"ptb.{split}.txt").write_text(content)
        monkeypatch.setitem(text_sources.PTB_MD5, split, hashlib.md5(content.encode()).hexdigest())


def test_characters_of_word_level_lines(tmp_path, monkeypatch):
    write_ptb(tmp_path, monkeypatch, " a b \n b <unk> \n")
    loaded = ptb_char(tmp_path)
    assert "".join(loaded.vocabulary[index] for index in loaded.train) == "a b\nb <unk>\n"
    assert loaded.vocabulary == "\n <>abknu"
    assert loaded.train.dtype == np.uint8


@needs_ptb
def test_published_penn_treebank():
    loaded = ptb_char(REAL)
    sizes = [len(split) for split in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [5_017_482, 393_042, 442_423] and len(loaded.vocabulary) == 50


def test_penn_treebank_that_is_missing_changed_or_has_new_characters(tmp_path, monkeypatch):
    message = refusal(FileNotFoundError, ptb_char, tmp_path)
    assert "LDC" in message and "ptb.train.txt" in message and str(tmp_path / "ptb") in message
    write_ptb(tmp_path, monkeypatch, "a b\n", valid="a?\n")
    message = refusal(ValueError, ptb_char, tmp_path)
    assert "'?'" in message and "ptb.valid.txt" in message and "position 1" in message
    (tmp_path / "ptb" / "ptb.test.txt").write_text("changed")
    assert "ptb.test.txt" in refusal(ValueError, ptb_char, tmp_path)


def test_split_of_enwik8(tmp_path, monkeypatch):
    with open(tmp_path / "enwik8", "wb") as file:
        file.truncate(100_000_000)  # zeros that take no disk
        file.seek(95_000_000)
        file.write(b"\xc3")
    message = refusal(ValueError, enwik8, tmp_path)
    assert str(tmp_path / "enwik8") in message and text_sources.ENWIK8_MD5 in message
    monkeypatch.setattr(text_sources, "require_md5", lambda *_: None)
    loaded = enwik8(tmp_path)
    assert [len(split) for split in (loaded.train, loaded.validation, loaded.test)] == [90_000_000] + [5_000_000] * 2
    assert loaded.vocabulary == "\0\udcc3" and loaded.test[:2].tolist() == [1, 0] and not loaded.validation.any()


def test_enwik8_without_a_network(tmp_path, monkeypatch):
    def fail(url, folder):
        raise URLError("no network in this test")

    monkeypatch.setattr(text_sources, "download_and_extract_archive", fail)
    message = refusal(FileNotFoundError, enwik8, tmp_path)
    assert "no network in this test" in message and "text/enwik8" in message and "HYPERNETS_DATA" in message


def test_text_of_characters_and_of_bytes(tmp_path):
    content = "naïve – €" * 20
    (tmp_path / "my.txt").write_text(content, encoding="utf-8")
    characters, as_bytes = text("my.txt", tmp_path), text("my.txt", tmp_path, bytes=True)
    assert len(characters.vocabulary) == len(set(content))
    assert len(as_bytes.vocabulary) == len(set(content.encode()))
    for loaded in (characters, as_bytes):
        ids = np.concatenate([loaded.train, loaded.validation, loaded.test])
        assert readable("".join(loaded.vocabulary[index] for index in ids)) == content


def test_large_vocabulary(tmp_path):
    content = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    (tmp_path / "my.txt").write_text(content, encoding="utf-8")
    loaded = text(tmp_path / "my.txt")
    assert loaded.train.dtype == np.int32 and loaded.vocabulary == content and loaded.test[-1] == 299


def test_text_that_cannot_be_used(tmp_path):
    path = tmp_path / "my.txt"
    assert "my.txt" in refusal(FileNotFoundError, text, path)
    path.write_bytes(b"")
    assert "empty" in refusal(ValueError, text, path)
    path.write_bytes(b"abc\xff")
    message = refusal(ValueError, text, path)
    assert "byte 3 is 0xff" in message and "dataset.bytes=true" in message
    path.write_text("a short text")
    assert "12 characters" in refusal(ValueError, text, path)
    path.write_text("a longer text" * 10)
    for fractions in ((0.5, 0.5), (0.0, 0.1), (0.1, 0.0), (-0.1, 0.1), (0.1, 1.1)):
        assert "fraction" in refusal(ValueError, text, path, None, False, *fractions)
    assert "dataset.path" in refusal(ValueError, build_text, source="text", root=".", batch_size=1, sequence_length=1)
    assert "ptb_char" in refusal(ValueError, build_text, source="x", root=".", batch_size=1, sequence_length=1)


def test_unknown_character():
    assert encode("cab", "abc").tolist() == [2, 0, 1]
    message = refusal(ValueError, encode, "ab~d", "abc", "the prompt")
    assert "'~'" in message and "position 2 of the prompt" in message and "'abc'" in message
