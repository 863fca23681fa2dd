"""Where sentence pairs come from: Multi30k, Tatoeba and WMT'14, English and French.

Files are UTF-8 with one sentence per line, and line N of one language translates line N of the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import require_memory
from hypernets.errors import UserError, require_whole

MULTI30K_PAIRS = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}
LANGUAGES = ("en", "fr")

Pairs = tuple[list[str], list[str]]  # sentences, and the translation of each


@dataclass(frozen=True)
class SentencePairs:
    """English sentences and their French translations, in splits."""

    train: Pairs
    validation: Pairs
    test: Pairs


def multi30k(root: Path) -> SentencePairs:
    """Task 1 of Multi30k (Elliott et al. 2016, 2017): captions of images, from root/translation/multi30k.

    29,000 pairs for training, 1,014 for validation, and the 1,000 of test_2016_flickr.
    """
    folder = root / "translation" / "multi30k"
    _require_files(folder, MULTI30K_PAIRS, "Multi30k, task 1")
    splits = {name: _read_pairs(folder / name) for name in MULTI30K_PAIRS}
    for name, (sentences, _) in splits.items():
        if len(sentences) != MULTI30K_PAIRS[name]:
            raise UserError(
                f"{folder / name}.en has {len(sentences):,} lines and Multi30k {MULTI30K_PAIRS[name]:,}; "
                "put the published file in its place."
            )
    return SentencePairs(*splits.values())


def wmt14(root: Path) -> SentencePairs:
    """WMT'14 English-French, as in section 4.6, from root/translation/wmt14 and root/translation/newstest2014.

    train.en and train.fr are all parallel corpora of the task in one file; newstest2013 is for validation. Pairs with
    an empty side are left out of the training split.
    """
    folder, test_folder = root / "translation" / "wmt14", root / "translation" / "newstest2014"
    _require_files(folder, ("train", "newstest2013"), "WMT'14, its parallel corpora in one file,")
    _require_files(test_folder, ("newstest2014",), "The test set of WMT'14")
    english, french = _read_pairs(folder / "train")
    kept = [pair for pair in zip(english, french, strict=True) if all(pair)]
    train = [pair[0] for pair in kept], [pair[1] for pair in kept]
    return SentencePairs(train, _read_pairs(folder / "newstest2013"), _read_pairs(test_folder / "newstest2014"))


def tatoeba(root: Path, validation_size: int, test_size: int, split_seed: int) -> SentencePairs:
    """Short sentences of Tatoeba, as manythings.org/anki selects them, from root/translation/fra-eng/fra.txt.

    A line holds an English sentence, a tab, its translation and perhaps another tab and the source. Many English
    sentences occur with several translations, so the splits are made of distinct English sentences: one that is held
    out is in no other split, and counts once, with its first translation.
    """
    for name, size in (("validation_size", validation_size), ("test_size", test_size)):
        require_whole(f"dataset.{name}", size)
    require_whole("dataset.split_seed", split_seed, least=0)
    path = root / "translation" / "fra-eng" / "fra.txt"
    if not path.is_file():
        raise UserError(f"There is no {path}; docs/data.md says where it comes from, or set dataset.root.")
    translations: dict[str, list[str]] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or not columns[0].strip() or not columns[1].strip():
            raise UserError(f"Line {number} of {path} is no sentence, tab and translation: {line[:60]!r}; repair it.")
        translations.setdefault(columns[0].strip(), []).append(columns[1].strip())
    english = list(translations)
    held_out = validation_size + test_size
    if held_out >= len(english):
        raise UserError(
            f"dataset.validation_size and test_size hold out {held_out:,} sentences, but {path} has only "
            f"{len(english):,} distinct ones; hold out fewer."
        )
    order = [english[index] for index in np.random.default_rng(split_seed).permutation(len(english))]
    train = sorted(order[held_out:])
    pairs = [(sentence, translation) for sentence in train for translation in translations[sentence]]
    parts = order[:validation_size], order[validation_size:held_out]
    validation, test = ((part, [translations[sentence][0] for sentence in part]) for part in parts)
    return SentencePairs(([pair[0] for pair in pairs], [pair[1] for pair in pairs]), validation, test)


TRANSLATIONS: dict[str, Callable[..., SentencePairs]] = {"multi30k": multi30k, "tatoeba": tatoeba, "wmt14": wmt14}


def _require_files(folder: Path, names: "tuple[str, ...] | dict[str, int]", title: str) -> None:
    wanted = [f"{name}.{language}" for name in names for language in LANGUAGES]
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise UserError(
            f"{title} is not in {folder}: it lacks {', '.join(missing)}; docs/data.md says where to get the files. Put "
            "them there, or set dataset.root or HYPERNETS_DATA to another folder."
        )


def _read_pairs(path: Path) -> Pairs:
    """The sentences in path.en and path.fr."""
    english, french = (_read_lines(path.with_name(f"{path.name}.{language}")) for language in LANGUAGES)
    if len(english) != len(french):
        raise UserError(
            f"{path}.en has {len(english):,} lines and {path}.fr {len(french):,}, so they are no translations of each "
            "other line by line; put the published files in their place."
        )
    return english, french


def _read_lines(path: Path) -> list[str]:
    """The lines of a file, without the spaces around them; only a line feed ends one."""
    require_memory(path, path.stat().st_size)
    content = path.read_bytes()
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"Line {line} of {path} is not UTF-8; convert the file, or put the published one there."
        ) from None
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]
