"""enwik8, the first 10^8 bytes of an English Wikipedia dump (Hutter 2012; section 4.4)."""

import hashlib
import io
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from data.text_sources import TextArrays, byte_ids
from hypernets.errors import UserError, require_whole

URL = "https://mattmahoney.net/dc/enwik8.zip"
SIZE = 100_000_000
PREFIX_SIZE = 4_154_399  # of a shorter file with the same beginning, for machines that do not have the whole
CHECKSUMS = {
    SIZE: ("md5", "a1fa5ffddb56f4953e226637dabbb36a"),
    PREFIX_SIZE: ("sha256", "d502ac7ecb9dd47a062e7d19b8dcd3c753b07c142e48b13dcd521cb747116bdd"),
}
FAULTS = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # of a file or an archive


def enwik8(root: Path, first_bytes: int | None = None) -> TextArrays:
    """The bytes of enwik8, split 90/5/5 million, or the first `first_bytes`, split in the same proportion.

    Read from `enwik8` or `enwik8.zip` in root/text or root; downloaded to root/text if neither is there. A file
    `enwik8_prefix` will do for the first 4,154,399 bytes. The vocabulary has the bytes that are used; the whole file
    has 205 distinct ones.
    """
    if first_bytes is not None:
        require_whole("first_bytes", first_bytes, least=40)  # so that each split has two
        if first_bytes > SIZE:
            raise UserError(f"first_bytes is {first_bytes}, but enwik8 has {SIZE}; set it to at most that, or to null.")
    content = _read(root, first_bytes == PREFIX_SIZE)[:first_bytes]
    ids, vocabulary = byte_ids(content)
    train, validation = len(ids) * 90 // 100, len(ids) * 95 // 100
    return TextArrays(ids[:train], ids[train:validation], ids[validation:], vocabulary)


def _read(root: Path, prefix_serves: bool) -> bytes:
    names = ["enwik8", *(["enwik8_prefix"] if prefix_serves else []), "enwik8.zip"]
    for path in (folder / name for name in names for folder in (root / "text", root)):
        if path.is_file():
            try:
                with path.open("rb") as file:
                    if path.suffix == ".zip":
                        return _unpacked(file)
                    return _checked(file, PREFIX_SIZE if path.name == "enwik8_prefix" else SIZE)
            except FAULTS as error:
                raise UserError(
                    f"{path} is not the published file ({error}); put a good copy in its place, or move it away to "
                    "have enwik8 downloaded."
                ) from error
    return _downloaded(root)


def _downloaded(root: Path) -> bytes:
    # The archive stays in memory, so that an interrupted download leaves nothing behind.
    path = root / "text" / "enwik8"
    try:
        with urlopen(URL, timeout=60) as response:
            content = _unpacked(io.BytesIO(response.read(SIZE)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            complete = Path(folder) / path.name
            complete.write_bytes(content)
            complete.replace(path)
    except (OSError, HTTPException, *FAULTS) as error:  # URLError is an OSError
        raise UserError(
            f"enwik8 is not in {root} and could not be downloaded from {URL} ({error}); put enwik8 or enwik8.zip into "
            f"{path.parent}, set dataset.root or HYPERNETS_DATA to a folder that has it, or use dataset=shakespeare."
        ) from error
    return content


def _unpacked(archive: IO[bytes]) -> bytes:
    with zipfile.ZipFile(archive) as members, members.open("enwik8") as member:
        return _checked(member, SIZE)


def _checked(file: IO[bytes], size: int) -> bytes:
    content = file.read(size + 1)  # no more than shows that a file is too long
    if len(content) != size:
        raise ValueError(f"it has {'more' if len(content) > size else 'fewer'} than {size:,} bytes")
    algorithm, expected = CHECKSUMS[size]
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"its {algorithm} is {found}, expected {expected}")
    return content
