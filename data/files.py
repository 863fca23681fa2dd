"""Finds the files of data sets, and checks them before they are read."""

import os
from pathlib import Path

from torchvision.datasets.utils import calculate_md5

from hypernets.errors import UserError

BUNDLED = Path(__file__).resolve().parent  # the sample and the text that come with the project are here


def locate(root: Path, path: str | Path | None, expected: str) -> Path:
    """Find the file `path`: as given or, if it is relative, in `root` or among the bundled files.

    If there is no such file, the UserError says to set dataset.path to what is `expected`.
    """
    if path is None:
        raise UserError(f"dataset.path is not set; set it to {expected}.")
    given = Path(os.path.expanduser(str(path)))
    candidates = dict.fromkeys(folder / given for folder in (Path(), root, BUNDLED))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = " and no file ".join(map(str, candidates))
    raise UserError(f"There is no file {tried}; set dataset.path to {expected}.")


def require_md5(files: dict[Path, str], remedy: str) -> None:
    """Raise UserError for the first of `files` that exists and whose MD5 is not the given one."""
    for path, expected in files.items():
        if path.is_file() and (found := calculate_md5(path)) != expected:
            raise UserError(f"{path} is corrupt or incomplete: its MD5 is {found}, expected {expected}; {remedy}.")


def require_memory(path: Path, size: int) -> None:
    """Raise UserError if the `size` bytes that `path` holds are more than the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"{path} holds {size / 1e9:,.1f} GB, but this machine has only {memory / 1e9:,.1f} GB of memory, "
            "and a data set is kept in memory as a whole; use a smaller file."
        )
