"""Where text comes from: character-level Penn Treebank, enwik8, or any file.

A text becomes ids into a vocabulary, a string of its distinct characters in the order of their code points. A byte
that is not ASCII stands in it as the character that Python's "surrogateescape" gives it, so that one string serves
texts of characters and of bytes; `spelled` and `readable` go between it and text.
"""

import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import download_and_extract_archive

from data.sources import locate, require_md5

PTB_MD5 = {  # Mikolov's word-level files
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
ENWIK8_URL = "http://mattmahoney.net/dc/enwik8.zip"
ENWIK8_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"  # of the file in it


@dataclass(frozen=True)
class TextArrays:
    """A text in its splits: ids, uint8 or int32 [N], of the characters of `vocabulary`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: str


def ptb_char(root: str | Path) -> TextArrays:
    """Character-level Penn Treebank (Mikolov et al. 2012; section 4.3), made from the word-level files in root/ptb.

    A line is stripped of the spaces around it and ends in one end-of-line symbol; the spaces between words are
    characters. That is 5,017,482, 393,042 and 442,423 characters, of 50 different ones.

    Raises:
        FileNotFoundError: a file is not there. Penn Treebank is licensed by the LDC, so nothing is downloaded.
        ValueError: a file is not the published one.
    """
    folder = Path(root).expanduser() / "ptb"
    paths = {split: folder / f"ptb.{split}.txt" for split in PTB_MD5}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: Penn Treebank is licensed by the LDC and not downloaded, so put "
            "ptb.train.txt, ptb.valid.txt and ptb.test.txt of Mikolov's simple-examples there, set dataset.root or "
            "HYPERNETS_DATA to a folder with a ptb folder that has them, or use dataset=shakespeare."
        )
    require_md5({path: PTB_MD5[split] for split, path in paths.items()}, "put the published file in its place")
    lines = {split: path.read_text(encoding="ascii").splitlines() for split, path in paths.items()}
    texts = {split: "".join(line.strip() + "\n" for line in lines[split]) for split in lines}
    vocabulary = _distinct(code_points(texts["train"]))
    ids = {split: encode(text, vocabulary, f"ptb.{split}.txt") for split, text in texts.items()}
    return TextArrays(ids["train"], ids["valid"], ids["test"], vocabulary)


def enwik8(root: str | Path) -> TextArrays:
    """The first 10^8 bytes of an English Wikipedia dump (Hutter 2012; section 4.4), split 90/5/5 million.

    Read from root/text/enwik8 or root/enwik8, and downloaded to the former if it is in neither. The vocabulary is the
    205 bytes of the whole file.

    Raises:
        ValueError: the file is there but is not the published one.
        FileNotFoundError: it is not there and could not be downloaded.
    """
    root = Path(root).expanduser()
    path = root / "enwik8" if (root / "enwik8").is_file() else root / "text" / "enwik8"
    if not path.is_file():
        try:
            download_and_extract_archive(ENWIK8_URL, str(path.parent))
        except (OSError, HTTPException, RuntimeError, zipfile.BadZipFile) as error:  # URLError is an OSError
            reason = " ".join(str(error).split())
            raise FileNotFoundError(
                f"enwik8 is not in {root} and could not be downloaded from {ENWIK8_URL} and unpacked ({reason}): "
                f"put the unpacked file there as {path.relative_to(root)}, set dataset.root or HYPERNETS_DATA to a "
                "folder that has it, or use dataset=shakespeare."
            ) from error
    require_md5({path: ENWIK8_MD5}, "move it away to have it downloaded again, or put a good copy in its place")
    ids, vocabulary = _byte_ids(path.read_bytes())
    return TextArrays(ids[:90_000_000], ids[90_000_000:95_000_000], ids[95_000_000:], vocabulary)


def text(
    path: str | Path,
    root: str | Path | None = None,
    bytes: bool = False,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> TextArrays:
    """Any text file: its first part for training, then the part for validation, then that for the test.

    The vocabulary is that of the whole file.

    Args:
        path: looked up as given, and then, if it is relative, from `root`.
        bytes: whether the symbols are the bytes of the file, or the characters that it encodes in UTF-8.
        validation_fraction, test_fraction: of the symbols.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or not UTF-8, or the fractions leave a split with fewer than two symbols.
    """
    path = locate(path, root, "a text file")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty; set dataset.path to a file with text in it.")
    if bytes:
        ids, vocabulary = _byte_ids(content)
    else:
        try:
            decoded = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 (byte {error.start} is {content[error.start]:#04x}); "
                "convert it, or set dataset.bytes=true to model its bytes."
            ) from None
        vocabulary = _distinct(code_points(decoded))
        ids = encode(decoded, vocabulary, str(path))
    first = round(len(ids) * (1 - validation_fraction - test_fraction))
    second = round(len(ids) * (1 - test_fraction))
    if validation_fraction <= 0 or test_fraction <= 0 or first < 2 or second - first < 2 or len(ids) - second < 2:
        raise ValueError(
            f"{path} has {len(ids)} characters, of which validation_fraction={validation_fraction} and "
            f"test_fraction={test_fraction} do not leave at least two in each split; choose fractions above 0 that "
            "add up to less than 1, or a longer text."
        )
    return TextArrays(ids[:first], ids[first:second], ids[second:], vocabulary)


def encode(text: str, vocabulary: str, name: str = "the text") -> np.ndarray:
    """The ids of a text's characters: uint8 [N] for a vocabulary of up to 256 characters, otherwise int32.

    Raises:
        ValueError: a character is not in the vocabulary; the message says that it is in `name`, and where.
    """
    known, points = code_points(vocabulary), code_points(text)
    ids = np.searchsorted(known, points).clip(max=len(known) - 1)
    unknown = np.flatnonzero(known[ids] != points)
    if len(unknown):
        raise ValueError(
            f"The character {text[unknown[0]]!r}, at position {unknown[0]} of {name}, is not among the "
            f"{len(vocabulary)} characters of the vocabulary, {vocabulary!r}; replace it."
        )
    return ids.astype(np.uint8 if len(vocabulary) <= 256 else np.int32)


def spelled(text: str, vocabulary: str) -> str:
    """A text as a vocabulary spells it: with bytes as surrogates where those of the vocabulary do so."""
    if any("\udc80" <= character <= "\udcff" for character in vocabulary):
        return text.encode("utf-8").decode("ascii", "surrogateescape")
    return text


def readable(text: str) -> str:
    """The inverse of `spelled`; bytes that are not UTF-8 become replacement characters."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def code_points(text: str) -> np.ndarray:
    """The code points of a text's characters, uint32 [N]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _distinct(points: np.ndarray) -> str:
    return "".join(map(chr, np.unique(points)))


def _byte_ids(content: bytes) -> tuple[np.ndarray, str]:
    values = np.frombuffer(content, dtype=np.uint8)
    distinct = np.unique(values)
    id_of_byte = np.zeros(256, dtype=np.uint8)
    id_of_byte[distinct] = np.arange(len(distinct))
    return id_of_byte[values], distinct.tobytes().decode("ascii", "surrogateescape")
