"""Text: windows of parallel streams, an evaluation that counts every character once, and one sentence per mistake."""

import hashlib

import numpy as np
import pytest
import torch

from data import text_sources
from data.files import BUNDLED
from data.text import IGNORED, EvaluationStreams, TrainingStreams
from data.text_sources import encode, ptb_char, readable, spelled, text


def positions(number):
    """A text whose ids are the positions of its characters."""
    return np.arange(number, dtype=np.int32)


def test_windows_of_a_stream_continue_each_other():
    streams = TrainingStreams(positions(107), batch_size=5, sequence_length=4)  # streams of 21, so 5 windows of 4
    windows = [streams.batch(step) for step in range(5, 10)]  # as in every epoch
    assert (streams.steps_per_epoch, streams.examples_per_step) == (5, 20)
    inputs = torch.cat([window.inputs for window in windows])
    assert inputs.dtype == torch.int64 and inputs.shape == (20, 5)
    assert torch.equal(inputs, torch.arange(20)[:, None] + 21 * torch.arange(5))
    assert torch.equal(torch.cat([window.targets for window in windows]), inputs + 1)
    assert [window.is_first for window in windows] == [True, False, False, False, False]


def test_shares_of_the_ranks_are_the_batch():
    whole = TrainingStreams(positions(200), batch_size=6, sequence_length=4)
    shares = [TrainingStreams(positions(200), batch_size=6, sequence_length=4, rank=r, world_size=3) for r in range(3)]
    for step in (0, 3):
        for field in ("inputs", "targets"):
            together = torch.cat([getattr(share.batch(step), field) for share in shares], dim=1)
            assert torch.equal(together, getattr(whole.batch(step), field))
    assert all(share.examples_per_step == whole.examples_per_step for share in shares)


def test_training_text_may_be_just_long_enough(refusal):
    streams = TrainingStreams(positions(21), batch_size=5, sequence_length=4)
    assert streams.steps_per_epoch == 1 and streams.batch(0).targets.max() == 20
    assert "which need 21" in refusal(TrainingStreams, positions(20), batch_size=5, sequence_length=4)


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


def characters(loaded):
    """The whole text."""
    ids = np.concatenate([loaded.train, loaded.validation, loaded.test])
    return readable("".join(loaded.vocabulary[index] for index in ids))


def test_bundled_text():
    loaded = text(BUNDLED, "tinyshakespeare.txt")
    assert len(loaded.vocabulary) == 65
    assert [len(split) for split in (loaded.train, loaded.validation, loaded.test)] == [1_003_855, 55_769, 55_770]


def write_ptb(root, monkeypatch, train, valid="a\n", test="b\n"):
    (root / "ptb").mkdir()
    for split, content in (("train", train), ("valid", valid), ("test", test)):
        (root / "ptb" / f"ptb.{split}.txt").write_text(content)
        monkeypatch.setitem(text_sources.PTB_MD5, split, hashlib.md5(content.encode()).hexdigest())


def test_penn_treebank_is_made_of_word_level_lines(tmp_path, monkeypatch):
    write_ptb(tmp_path, monkeypatch, " a b \n b <unk> \n")
    loaded = ptb_char(tmp_path)
    assert "".join(loaded.vocabulary[index] for index in loaded.train) == "a b\nb <unk>\n"
    assert loaded.vocabulary == "\n <>abknu" and loaded.train.dtype == np.uint8


def test_penn_treebank_that_is_missing_changed_or_has_new_characters(tmp_path, monkeypatch, refusal):
    assert str(tmp_path / "ptb") in refusal(ptb_char, tmp_path)
    write_ptb(tmp_path, monkeypatch, "a b\n", valid="a?\n")
    assert "'?', at position 1 of ptb.valid.txt" in refusal(ptb_char, tmp_path)
    (tmp_path / "ptb" / "ptb.test.txt").write_text("changed")
    assert "ptb.test.txt is corrupt" in refusal(ptb_char, tmp_path)


def test_published_penn_treebank(real):
    loaded = ptb_char(real("ptb"))
    sizes = [len(split) for split in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [5_017_482, 393_042, 442_423] and len(loaded.vocabulary) == 50


@pytest.mark.parametrize("content", ["naïve – €" * 20, "".join(map(chr, range(0x4E00, 0x4E00 + 300)))])
def test_text_of_characters_and_of_bytes(tmp_path, content):
    (tmp_path / "my.txt").write_text(content, encoding="utf-8")
    of_characters, of_bytes = text(tmp_path, "my.txt"), text(tmp_path, "my.txt", bytes=True)
    assert len(of_characters.vocabulary) == len(set(content))
    assert len(of_bytes.vocabulary) == len(set(content.encode()))
    assert characters(of_characters) == characters(of_bytes) == content
    assert spelled("é", of_bytes.vocabulary) == "\udcc3\udca9" and spelled("é", of_characters.vocabulary) == "é"


def test_byte_order_mark_is_no_character(tmp_path):
    (tmp_path / "my.txt").write_text("abc" * 20, encoding="utf-8-sig")
    loaded = text(tmp_path, "my.txt")
    assert loaded.vocabulary == "abc" and characters(loaded) == "abc" * 20


def test_text_that_cannot_be_used(tmp_path, refusal, monkeypatch):
    path = tmp_path / "my.txt"
    path.mkdir()
    assert str(path) in refusal(text, tmp_path, "my.txt")
    path.rmdir()
    for content, message in ((b"", "0 characters"), (b"a short text", "12 characters"), (b"abc\xff", "byte 3 is 0xff")):
        path.write_bytes(content)
        assert message in refusal(text, tmp_path, "my.txt")
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    assert "memory" in refusal(text, tmp_path, "my.txt")


def test_unknown_character(refusal):
    message = refusal(encode, "ab~d", "abc", "the prompt")
    assert "'~'" in message and "position 2 of the prompt" in message and "'abc'" in message
