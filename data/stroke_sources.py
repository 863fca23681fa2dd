"""Where handwriting comes from: IAM-OnDB, or scribbles that are made up."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from hypernets.errors import UserError, require_whole

IAM_PAGE = "https://fki.tic.heia-fr.ch/databases/iam-on-line-handwriting-database"
COMPACT = "iam_ondb_lines.npz"
COMPACT_ARRAYS = ("points", "stroke_len", "strokes_per_line", "name")
LINES = {"trainset": 5364, "testset_v": 1438, "testset_t": 1518, "testset_f": 3859}  # of each list, as published
SPLITS = {  # the lists for training, validation and test
    "held_out": (("trainset",), ("testset_v", "testset_t"), ("testset_f",)),
    "graves": (("trainset", "testset_t", "testset_f"), ("testset_v",), ("testset_v",)),
}


@dataclass(frozen=True)
class StrokeArrays:
    """Handwriting in its splits, as the points of all lines one after the other, and how many each line has.

    Points are int32 [N, 3]: x, y (which grows downwards), and 1 where a stroke ends, otherwise 0. Lengths are int32.
    """

    train_points: np.ndarray
    train_lengths: np.ndarray
    validation_points: np.ndarray
    validation_lengths: np.ndarray
    test_points: np.ndarray
    test_lengths: np.ndarray


def iam_ondb(root: Path, split: str) -> StrokeArrays:
    """IAM-OnDB (Liwicki and Bunke 2005; section 4.5), 12,179 lines of English on a whiteboard, in root/iam.

    Needs the four lists, and the strokes as `lineStrokes` (the published XML) or as `iam_ondb_lines.npz` (which
    docs/data.md describes). Nothing is downloaded, since its terms do not allow it.

    `split` is "held_out" (trainset for training, testset_v and testset_t for validation, testset_f for the test) or
    "graves", the paper's, which has no test set: all but testset_v for training, and testset_v for both others.
    """
    if split not in SPLITS:
        raise UserError(f"dataset.split is {split!r}; it must be {' or '.join(SPLITS)}.")
    folder = root / "iam"
    wanted = [path for name in LINES if not (path := folder / f"{name}.txt").is_file()]
    if not ((folder / "lineStrokes").is_dir() or (folder / COMPACT).is_file()):
        wanted.insert(0, folder / "lineStrokes")
    if wanted:
        raise UserError(
            f"{folder} lacks {', '.join(path.name for path in wanted)}, and the terms of IAM-OnDB do not allow a "
            f"download by this program; register at {IAM_PAGE}, put lineStrokes and the four lists (trainset.txt, "
            "testset_v.txt, testset_t.txt, testset_f.txt) there, or use dataset=scribbles."
        )
    forms = {name: (folder / f"{name}.txt").read_text(encoding="ascii", errors="replace").split() for name in LINES}
    if (folder / COMPACT).is_file():
        lines = _from_compact(folder / COMPACT)
    else:
        lines = _from_xml(folder / "lineStrokes", [form for name in LINES for form in forms[name]])
    of_list = {name: [line for form in forms[name] for line in lines.get(form, [])] for name in LINES}
    for name, expected in LINES.items():
        if len(of_list[name]) != expected:
            raise UserError(
                f"{folder} has {len(of_list[name]):,} lines of the forms in {name}.txt, but the published set has "
                f"{expected:,}; put the published lists and the whole of lineStrokes there."
            )
    splits = ([line for name in names for line in of_list[name]] for names in SPLITS[split])
    return StrokeArrays(*(array for each in splits for array in _joined(each)))


def scribbles(root: Path, lines: int) -> StrokeArrays:
    """Made-up lines of waves, each with a size and speed of its own, in strokes of 20 to 60 points; a tenth each for
    validation and test.
    """
    require_whole("lines", lines, least=10)
    random = np.random.default_rng(0)
    drawn = [_scribble(random) for _ in range(lines)]
    held_out = lines // 10
    splits = drawn[2 * held_out :], drawn[:held_out], drawn[held_out : 2 * held_out]
    return StrokeArrays(*(array for split in splits for array in _joined(split)))


def _scribble(random: np.random.Generator) -> np.ndarray:
    time = np.arange(random.integers(60, 121))
    size, speed, phase = random.uniform(60, 120), random.uniform(0.3, 0.6), random.uniform(0, 2 * np.pi)
    wave = speed * time + phase
    x = 0.3 * size * (speed * time + np.cos(wave)) + random.normal(0, 1, len(time))
    y = size * np.sin(wave) + random.normal(0, 1, len(time))
    ends = np.zeros(len(time))
    ends[np.cumsum(random.integers(20, 61, size=10)).clip(max=len(time)) - 1] = 1
    ends[-1] = 1
    x += 0.5 * size * (np.cumsum(ends) - ends)  # a gap after each stroke
    return np.stack([x, y, ends], axis=1).round().astype(np.int32)


def _joined(lines: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(lines), np.array([len(line) for line in lines], dtype=np.int32)


def _line(strokes: Sequence[np.ndarray]) -> np.ndarray:
    """The points [N, 3] of a line from those of its strokes, each [n, 2]."""
    ends = [np.arange(len(stroke)) == len(stroke) - 1 for stroke in strokes]
    return np.column_stack([np.concatenate(strokes), np.concatenate(ends)]).astype(np.int32)


def _from_xml(folder: Path, forms: Iterable[str]) -> dict[str, list[np.ndarray]]:
    """The lines of each form, from the published files lineStrokes/a01/a01-000/a01-000u-01.xml."""
    return {
        form: [_read_xml(path) for path in sorted((folder / form[:3] / form[:7]).glob(f"{form}-[0-9][0-9].xml"))]
        for form in forms
    }


def _read_xml(path: Path) -> np.ndarray:
    try:
        strokes = ElementTree.parse(path).getroot().findall("StrokeSet/Stroke")
        points = [[(int(point.attrib["x"]), int(point.attrib["y"])) for point in stroke] for stroke in strokes]
        return _line([np.array(stroke) for stroke in points if stroke])
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold pen strokes ({error}); put the published file in its place.") from None


def _from_compact(path: Path) -> dict[str, list[np.ndarray]]:
    """The lines of each form, from one file of arrays; docs/data.md says which."""
    try:
        with np.load(path, allow_pickle=False) as file:
            points, stroke_lengths, strokes, names = (file[key] for key in COMPACT_ARRAYS)
        whole = all(array.dtype.kind in "iu" and (array > 0).all() for array in (stroke_lengths, strokes))
        if points.dtype.kind not in "iu" or points.shape != (stroke_lengths.sum(), 2) or not whole:
            raise ValueError("points must be integers [N, 2], and the numbers of points and strokes must fit them")
        if names.dtype.kind != "U" or names.ndim != 1:
            raise ValueError("the names must be texts")
        if strokes.sum() != len(stroke_lengths) or len(names) != len(strokes):
            raise ValueError("the numbers of strokes must fit their lengths and the names")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} does not hold pen strokes ({error}); put a good copy in its place, or move it away and put "
            "lineStrokes there."
        ) from None
    of_stroke = np.split(points, np.cumsum(stroke_lengths)[:-1])
    lines: dict[str, list[np.ndarray]] = {}
    for name, end, number in sorted(zip(names.tolist(), np.cumsum(strokes).tolist(), strokes.tolist(), strict=True)):
        lines.setdefault(name.rpartition("-")[0], []).append(_line(of_stroke[end - number : end]))
    return lines
