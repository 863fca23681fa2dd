"""enwik8: checked before anything is written, wherever it comes from, and no failure that blocks the next attempt."""

import hashlib
import zipfile

import pytest

import data.enwik8 as module
from data.enwik8 import enwik8

CONTENT = bytes(range(10, 50)) * 20 + b"\xc3" * 200  # stands for the 10^8 bytes
PREFIX = CONTENT[:400]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The archive that is downloaded; CONTENT is the published file."""
    monkeypatch.setattr(module, "SIZE", len(CONTENT))
    monkeypatch.setattr(module, "PREFIX_SIZE", len(PREFIX))
    digests = {text: ("sha256", hashlib.sha256(text).hexdigest()) for text in (CONTENT, PREFIX)}
    monkeypatch.setattr(module, "CHECKSUMS", {len(text): digest for text, digest in digests.items()})
    archive = tmp_path / "served.zip"
    monkeypatch.setattr(module, "URL", archive.as_uri())
    return archive


@pytest.fixture
def root(tmp_path):
    """A root with a file of the user's."""
    (tmp_path / "root" / "text").mkdir(parents=True)
    (tmp_path / "root" / "text" / "neighbour").write_bytes(b"mine")
    return tmp_path / "root"


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def splits(loaded):
    """The bytes of the three splits."""
    parts = (loaded.train, loaded.validation, loaded.test)
    return ["".join(loaded.vocabulary[i] for i in ids).encode("ascii", "surrogateescape") for ids in parts]


def files(root):
    assert (root / "text" / "neighbour").read_bytes() == b"mine"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_downloaded_once_and_split(served, root):
    write_zip(served, enwik8=CONTENT, neighbour=b"not asked for")
    assert splits(enwik8(root)) == [CONTENT[:900], CONTENT[900:950], CONTENT[950:]]
    assert files(root) == ["text/enwik8", "text/neighbour"]
    served.unlink()
    assert len(enwik8(root).vocabulary) == 41


def test_bad_download_leaves_nothing_behind_and_does_not_block_the_next(served, root, refusal):
    message = refusal(enwik8, root)  # as without a network
    assert served.as_uri() in message and str(root / "text") in message and "HYPERNETS_DATA" in message
    write_zip(served, enwik8=CONTENT)
    whole = served.read_bytes()
    bad = [b"", b"<html>", whole[: len(whole) // 2], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]]
    for members in (
        {"enwik8": CONTENT[::-1], "neighbour": b"forged"},
        {"enwik8": CONTENT + b"x"},
        {"enwik8": CONTENT[:-1]},
        {"../enwik8": CONTENT, "text/enwik8": CONTENT, "neighbour": b"forged"},
    ):
        write_zip(served, **members)
        bad.append(served.read_bytes())
    for content in bad:
        served.write_bytes(content)
        assert served.as_uri() in refusal(enwik8, root)
        assert files(root) == ["text/neighbour"]
    served.write_bytes(whole)
    assert b"".join(splits(enwik8(root))) == CONTENT


def test_full_disk_leaves_nothing_behind(served, root, refusal, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    write_zip(served, enwik8=CONTENT)
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert "No space left" in refusal(enwik8, root)
    assert files(root) == ["text/neighbour"]


@pytest.mark.parametrize("name", ["enwik8", "text/enwik8", "enwik8.zip", "text/enwik8.zip"])
def test_file_put_there_by_hand_is_read_and_a_bad_one_named(served, root, refusal, name):
    path = root / name
    if path.suffix:
        write_zip(path, enwik8=CONTENT)
    else:
        path.write_bytes(CONTENT)
    assert b"".join(splits(enwik8(root))) == CONTENT
    for bad in (b"", path.read_bytes()[:-1], CONTENT + b"x", CONTENT[::-1]):
        path.write_bytes(bad)
        assert f"{path} is not the published file" in refusal(enwik8, root)
        assert files(root) == sorted([name, "text/neighbour"])


def test_first_bytes(served, root, refusal):
    (root / "enwik8").write_bytes(CONTENT)
    loaded = enwik8(root, first_bytes=100)
    assert splits(loaded) == [CONTENT[:90], CONTENT[90:95], CONTENT[95:100]] and len(loaded.vocabulary) == 40
    for nonsense in (0, 1.5, len(CONTENT) + 1):
        assert f"first_bytes is {nonsense}" in refusal(enwik8, root, first_bytes=nonsense)


def test_prefix_stands_in_only_for_its_own_bytes(served, root, refusal):
    prefix = root / "text" / "enwik8_prefix"
    prefix.write_bytes(PREFIX)
    assert b"".join(splits(enwik8(root, first_bytes=len(PREFIX)))) == PREFIX
    for other in (None, len(PREFIX) - 1):
        assert served.as_uri() in refusal(enwik8, root, first_bytes=other)
    prefix.write_bytes(PREFIX[::-1])
    assert str(prefix) in refusal(enwik8, root, first_bytes=len(PREFIX))
    (root / "enwik8").write_bytes(CONTENT)
    assert b"".join(splits(enwik8(root, first_bytes=len(PREFIX)))) == PREFIX


def test_real_prefix(real):
    loaded = enwik8(real("text/enwik8_prefix"), first_bytes=module.PREFIX_SIZE)
    assert [len(part) for part in splits(loaded)] == [3_738_959, 207_720, 207_720]
