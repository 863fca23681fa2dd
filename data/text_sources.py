"""Where text comes from: character-level Penn Treebank, or any file; enwik8 has a file of its own.

A text becomes ids into a vocabulary, a string of its distinct characters in the order of their code points. A byte
that is not ASCII appears in it as the character that Python's "surrogateescape" gives it, so one string serves texts
of characters and of bytes; `spelled` and `readable` convert between the two.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import locate, require_md5, require_memory
from hypernets.errors import UserError, require_number, require_true_or_false

PTB_MD5 = {  # Mikolov's word-level files
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}


@dataclass(frozen=True)
class TextArrays:
    """A text in its splits: ids, uint8 or int32 [N], of the characters of `vocabulary`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: str


def ptb_char(root: Path) -> TextArrays:
    """Character-level Penn Treebank (Mikolov et al. 2012; section 4.3), made from the word-level files in root/ptb.

    A line is stripped of the spaces around it and ends in one end-of-line symbol; the spaces between words are
    characters. That gives 5,017,482, 393,042 and 442,423 characters, of which 50 are distinct. Nothing is downloaded,
    since Penn Treebank is licensed by the LDC.
    """
    folder = root / "ptb"
    paths = {split: folder / f"ptb.{split}.txt" for split in PTB_MD5}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}, and the licence of Penn Treebank does not allow a download; put "
            "ptb.train.txt, ptb.valid.txt and ptb.test.txt of Mikolov's simple-examples there, set dataset.root or "
            "HYPERNETS_DATA to a folder with a ptb folder that has them, or use dataset=shakespeare."
        )
    require_md5({path: PTB_MD5[split] for split, path in paths.items()}, "put the published file in its place")
    lines = {split: path.read_text(encoding="ascii").splitlines() for split, path in paths.items()}
    texts = {split: "".join(line.strip() + "\n" for line in lines[split]) for split in lines}
    vocabulary = _distinct(texts["train"])
    ids = {split: encode(text, vocabulary, f"ptb.{split}.txt") for split, text in texts.items()}
    return TextArrays(ids["train"], ids["valid"], ids["test"], vocabulary)


def text(
    root: Path,
    path: str | Path | None = None,
    bytes: bool = False,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> TextArrays:
    """Any text file (see `locate`): the first part is for training, the next for validation, the last for the test.

    The vocabulary is that of the whole file. With `bytes` the symbols are the bytes of the file, otherwise the
    characters that it encodes in UTF-8, without a byte-order mark at the start. The fractions count symbols.
    """
    require_true_or_false("bytes", bytes)
    require_number("validation_fraction", validation_fraction, above=0, below=1)
    require_number("test_fraction", test_fraction, above=0, below=1)
    path = locate(root, path, "a text file")
    require_memory(path, path.stat().st_size)
    content = path.read_bytes()
    if bytes:
        ids, vocabulary = byte_ids(content)
    else:
        try:
            decoded = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); "
                "convert it, or set dataset.bytes=true to model its bytes."
            ) from None
        vocabulary = _distinct(decoded)
        ids = encode(decoded, vocabulary, str(path))
    first = round(len(ids) * (1 - validation_fraction - test_fraction))
    second = round(len(ids) * (1 - test_fraction))
    if first < 2 or second - first < 2 or len(ids) - second < 2:
        raise UserError(
            f"{path} has {len(ids)} characters, and validation_fraction={validation_fraction} and "
            f"test_fraction={test_fraction} leave a split with fewer than two; choose other fractions or a longer text."
        )
    return TextArrays(ids[:first], ids[first:second], ids[second:], vocabulary)


def encode(text: str, vocabulary: str, name: str = "the text") -> np.ndarray:
    """The ids of a text's characters: uint8 [N] for a vocabulary of up to 256 characters, otherwise int32.

    For a character that is not in the vocabulary, the UserError says where in `name` it is.
    """
    known, points = _code_points(vocabulary), _code_points(text)
    ids = np.searchsorted(known, points).clip(max=len(known) - 1)
    unknown = np.flatnonzero(known[ids] != points)
    if len(unknown):
        raise UserError(
            f"The character {text[unknown[0]]!r}, at position {unknown[0]} of {name}, is not among the "
            f"{len(vocabulary)} characters of the vocabulary, {vocabulary!r}; replace it."
        )
    return ids.astype(np.uint8 if len(vocabulary) <= 256 else np.int32)


def byte_ids(content: bytes) -> tuple[np.ndarray, str]:
    """The ids of bytes, uint8 [N], and their vocabulary."""
    values = np.frombuffer(content, dtype=np.uint8)
    distinct = np.unique(values)
    id_of_byte = np.zeros(256, dtype=np.uint8)
    id_of_byte[distinct] = np.arange(len(distinct))
    return id_of_byte[values], distinct.tobytes().decode("ascii", "surrogateescape")


def spelled(text: str, vocabulary: str) -> str:
    """A text in the characters of a vocabulary, with bytes as surrogates if the vocabulary has those."""
    if any("\udc80" <= character <= "\udcff" for character in vocabulary):
        return text.encode("utf-8").decode("ascii", "surrogateescape")
    return text


def readable(text: str) -> str:
    """The inverse of `spelled`; bytes that are not UTF-8 become replacement characters."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _distinct(text: str) -> str:
    return "".join(map(chr, np.unique(_code_points(text))))
