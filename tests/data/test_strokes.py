"""Handwriting: windows of lines, an evaluation that counts every step once, IAM-OnDB's files, and refused mistakes."""

import numpy as np
import pytest
import torch

from data import stroke_sources
from data.build import build_strokes
from data.stroke_sources import COMPACT, StrokeArrays, iam_ondb, scribbles
from data.strokes import EvaluationLines, TrainingLines, moves, offset_statistics, without_short_lines

LENGTHS = np.array([8, 12, 30, 9, 21], dtype=np.int32)
PLAIN = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}


def numbered():
    """Lines whose steps are all different: step k of line l moves the pen by (k, l)."""
    lines = []
    for line, length in enumerate(LENGTHS):
        steps = np.stack([np.arange(length), np.full(length, line), np.arange(length) % 5 == 4], axis=1)
        steps[0, :2] = 1000  # where a line begins does not matter
        lines.append(np.column_stack([steps[:, :2].cumsum(axis=0), steps[:, 2]]))
    return np.concatenate(lines).astype(np.int32)


def steps_of(window):
    """The (step, line, end) of the counted targets."""
    return [tuple(step) for step in window.targets[window.counted].long().tolist()]


EVERY_STEP = {(k, line, int(k % 5 == 4)) for line, length in enumerate(LENGTHS.tolist()) for k in range(1, length)}


def test_a_part_of_a_line_follows_itself():
    lines = TrainingLines(numbered(), LENGTHS, batch_size=5, sequence_length=7, **PLAIN)
    starts = set()
    for step in range(40):
        window = lines.batch(step)
        assert window.inputs.shape == window.targets.shape == (7, 5, 3) and window.is_first
        assert window.counted.all() and window.predictions == 35
        assert torch.equal(window.inputs[1:], window.targets[:-1])
        assert (window.targets[1:, :, 0] - window.targets[:-1, :, 0] == 1).all()
        assert sorted(window.targets[0, :, 1].tolist()) == [0, 1, 2, 3, 4], "each line once an epoch"
        assert set(steps_of(window)) <= EVERY_STEP
        starts |= {tuple(first) for first in window.targets[0, :, :2].long().tolist()}
    assert {(1, 0), (1, 3), (2, 3), (1, 1), (5, 1)} <= starts and not {(2, 0), (3, 3), (6, 1)} & starts


def test_whole_lines_are_padded():
    lines = TrainingLines(numbered(), LENGTHS, batch_size=5, **PLAIN)
    window = lines.batch(0)
    assert window.inputs.shape == (29, 5, 3) and window.predictions == window.counted.sum() == LENGTHS.sum() - 5
    assert set(steps_of(window)) == EVERY_STEP
    assert not window.inputs[0].any()  # the pen has not moved yet


@pytest.mark.parametrize("sequence_length", [7, None])
def test_shares_of_the_ranks_are_the_batch(sequence_length):
    settings = {"batch_size": 4, "sequence_length": sequence_length, "scaling": 0.1, "seed": 3, **PLAIN}
    whole = TrainingLines(numbered(), LENGTHS, **settings)
    shares = [TrainingLines(numbered(), LENGTHS, rank=rank, world_size=2, **settings) for rank in range(2)]
    for step in (5, 0, 5):  # in any order
        window, parts = whole.batch(step), [share.batch(step) for share in shares]
        for index, part in enumerate(parts):
            own = (slice(len(part.targets)), slice(2 * index, 2 * index + 2))
            assert torch.equal(part.targets[part.counted], window.targets[own][part.counted])
            assert torch.equal(part.counted, window.counted[own])
            assert part.predictions == window.predictions / 2
    other = TrainingLines(numbered(), LENGTHS, **settings | {"seed": 4})
    assert whole.batch(0).targets.tolist() != other.batch(0).targets.tolist()


def test_lines_are_scaled_as_a_whole_before_they_are_normalised():
    mean, std = [3.0, 1.0], [5.0, 0.5]
    lines = TrainingLines(numbered(), LENGTHS, batch_size=5, scaling=0.1, mean=mean, std=std)
    plain = TrainingLines(numbered(), LENGTHS, batch_size=5, mean=mean, std=std)
    factors = []
    for step in range(30):
        scaled, window = lines.batch(step), plain.batch(step)
        offsets, expected = (
            each.targets[..., :2] * torch.tensor(std) + torch.tensor(mean) for each in (scaled, window)
        )
        ratio = offsets[:7, :, 0] / expected[:7, :, 0]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        torch.testing.assert_close(offsets, ratio[0, :, None] * expected)
        assert torch.equal(scaled.targets[..., 2], window.targets[..., 2])
        factors += ratio[0].tolist()
    assert 0.9 <= min(factors) < 0.92 and 1.08 < max(factors) <= 1.1


@pytest.mark.parametrize("world_size", [1, 3, 7])  # there are fewer lines than seven
def test_every_step_is_evaluated_once_and_in_order(world_size, monkeypatch):
    monkeypatch.setattr("data.strokes.EVALUATED_LINES", 2)
    monkeypatch.setattr("data.strokes.EVALUATED_STEPS", 10)
    evaluated = []
    for rank in range(world_size):
        lines = EvaluationLines(numbered(), LENGTHS, rank=rank, world_size=world_size, **PLAIN)
        last = None
        for window in lines.evaluation_batches():
            assert len(window.inputs) <= 10 and window.inputs.shape[1] == 2
            assert torch.equal(window.inputs[0], torch.zeros(2, 3) if window.is_first else last)
            last = window.targets[-1]
            evaluated += steps_of(window)
    assert sorted(evaluated) == sorted(EVERY_STEP)


def test_statistics_are_those_of_the_steps_that_are_kept():
    points, lengths = without_short_lines(numbered(), LENGTHS, shortest=10)
    assert lengths.tolist() == [12, 30, 21] and len(points) == 63
    assert without_short_lines(numbered(), LENGTHS, shortest=11)[1].tolist() == [12, 30, 21]  # 12 points are 11 steps
    expected = np.array([step[:2] for step in EVERY_STEP if step[1] in (1, 2, 4)])
    mean, std = offset_statistics(points, lengths)
    assert mean == pytest.approx(expected.mean(axis=0).tolist()) and std == pytest.approx(expected.std(axis=0).tolist())
    assert not moves(points, lengths)[[0, 12, 42], :2].any()


SCRIBBLES = {"kind": "scribbles", "lines": 60, "batch_size": 8, "shortest": 60}
PLACE = {"seed": 0, "device": "cpu", "rank": 0, "world_size": 1}


def test_scribbles():
    splits = build_strokes(SCRIBBLES, **PLACE)
    offsets = torch.cat([window.targets[window.counted] for window in map(splits.train.batch, range(5))])
    assert offsets[:, :2].mean(dim=0).abs().max() < 0.1 and (offsets[:, :2].std(dim=0) - 1).abs().max() < 0.1
    assert 0.02 < offsets[:, 2].mean() < 0.06 and int(splits.train.steps.min()) >= 60
    again, fewer = (build_strokes(SCRIBBLES | {"lines": lines}, **PLACE) for lines in (60, 61))
    assert splits.digest == again.digest != fewer.digest


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequence_length": 61}, "sequence_length is 61"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"shortest": 1000}, "The train split has no line of 1000 steps"),
        ({"scaling": 1.0}, "scaling is 1.0"),
        ({"batch_size": 49}, "has only"),
        ({"lines": 9}, "lines is 9"),
    ],
)
def test_settings_that_do_not_fit(settings, words, refusal):
    assert words in refusal(build_strokes, SCRIBBLES | settings, **PLACE)


# IAM-OnDB

FORMS = {"trainset": ["a01-000u", "a01-000"], "testset_v": ["b02-011"], "testset_t": ["z01-000z"], "testset_f": ["c1"]}


@pytest.fixture
def iam(tmp_path, monkeypatch):
    """A folder with six lines of five forms, as published; returns the root and the strokes by the name of the line."""
    folder = tmp_path / "iam"
    folder.mkdir()
    for name, forms in FORMS.items():
        (folder / f"{name}.txt").write_text("".join(f" {form}\n" for form in forms) + "\n")
    random, lines = np.random.default_rng(0), {}
    for name in ("a01-000u-01", "a01-000u-02", "a01-000-01", "b02-011-01", "z01-000z-01", "c1-01"):
        form = name.rpartition("-")[0]
        lines[name] = [random.integers(0, 9999, size=(length, 2)) for length in random.integers(1, 6, size=3)]
        path = folder / "lineStrokes" / form[:3] / form[:7] / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        strokes = (
            "".join(f'<Point x="{x}" y="{y}" time="1.0"/>' for x, y in stroke).join(["<Stroke>", "</Stroke>"])
            for stroke in lines[name]
        )
        path.write_text(
            '<?xml version="1.0" encoding="ISO-8859-1"?><WhiteboardCaptureSession><WhiteboardDescription/>'
            f"<StrokeSet>{''.join(strokes)}</StrokeSet></WhiteboardCaptureSession>"
        )
    monkeypatch.setattr(stroke_sources, "LINES", {"trainset": 3, "testset_v": 1, "testset_t": 1, "testset_f": 1})
    return tmp_path, lines


def compact(lines):
    """The arrays of the compact file."""
    strokes = [stroke for name in lines for stroke in lines[name]]
    return {
        "points": np.concatenate(strokes).astype(np.int16),
        "stroke_len": np.array(list(map(len, strokes)), dtype=np.int32),
        "strokes_per_line": np.array([len(lines[name]) for name in lines], dtype=np.int32),
        "name": np.array(list(lines)),
    }


def test_published_and_compact_files_hold_the_same(iam, assert_same):
    root, lines = iam
    published = iam_ondb(root, "held_out")
    assert published.train_lengths.tolist() == [
        sum(map(len, lines[name])) for name in ("a01-000u-01", "a01-000u-02", "a01-000-01")
    ]
    assert published.train_points[:, :2].tolist()[: len(lines["a01-000u-01"][0])] == lines["a01-000u-01"][0].tolist()
    ends = np.flatnonzero(published.test_points[:, 2]).tolist()
    assert ends == (np.cumsum([len(stroke) for stroke in lines["c1-01"]]) - 1).tolist()
    shuffled = {name: lines[name] for name in sorted(lines, reverse=True)}
    np.savez(root / "iam" / COMPACT, **compact(shuffled))
    for split in ("held_out", "graves"):
        (root / "iam" / COMPACT).rename(root / "away")
        from_xml = iam_ondb(root, split)
        (root / "away").rename(root / "iam" / COMPACT)
        (root / "iam" / "lineStrokes").rename(root / "away")
        from_compact = iam_ondb(root, split)
        (root / "away").rename(root / "iam" / "lineStrokes")
        for field in StrokeArrays.__dataclass_fields__:
            assert np.array_equal(getattr(from_xml, field), getattr(from_compact, field)), field
        sizes = [len(getattr(from_xml, f"{name}_lengths")) for name in ("train", "validation", "test")]
        assert sizes == {"held_out": [3, 2, 1], "graves": [5, 1, 1]}[split]


def test_iam_files_that_are_missing_or_damaged(iam, refusal):
    root, lines = iam
    assert "is 'mine'" in refusal(iam_ondb, root, "mine")
    missing = refusal(iam_ondb, root / "nothing", "held_out")
    assert all(word in missing for word in ("lineStrokes", "trainset.txt", "https://", "dataset=scribbles"))
    folder = root / "iam"
    path = folder / "lineStrokes" / "b02" / "b02-011" / "b02-011-01.xml"
    content = path.read_text()
    for damaged in (content[:200], content.replace(' x="', ' z="'), content.replace(' x="', ' x="?'), "<a/>"):
        path.write_text(damaged)
        assert f"{path} does not hold pen strokes" in refusal(iam_ondb, root, "held_out")
    path.unlink()
    assert "0 lines of the forms in testset_v.txt, but the published set has 1;" in refusal(iam_ondb, root, "held_out")
    good = compact(lines)
    short, negative = good | {"points": good["points"][1:]}, good | {"stroke_len": -good["stroke_len"]}
    nameless = {key: value for key, value in good.items() if key != "name"}
    numbered = good | {"name": np.arange(len(good["name"]))}
    for arrays in (short, negative, nameless, numbered, good | {"name": good["name"][1:]}):
        np.savez(folder / COMPACT, **arrays)
        assert f"{COMPACT} does not hold pen strokes" in refusal(iam_ondb, root, "held_out")
    (folder / COMPACT).write_bytes(b"no archive")
    assert f"{COMPACT} does not hold pen strokes" in refusal(iam_ondb, root, "held_out")


def test_published_iam_ondb(real):
    loaded = iam_ondb(real("iam"), "held_out")
    counts = [len(getattr(loaded, f"{name}_lengths")) for name in ("train", "validation", "test")]
    assert counts == [5364, 1438 + 1518, 3859] and sum(counts) == 12_179  # section 4.5
    assert [int((lengths > 300).sum()) for lengths in (loaded.train_lengths, loaded.test_lengths)] == [5115, 3653]


def test_scribbles_end_their_strokes():
    loaded = scribbles(None, 20)
    assert [len(getattr(loaded, f"{name}_lengths")) for name in ("train", "validation", "test")] == [16, 2, 2]
    last = np.cumsum(loaded.train_lengths) - 1
    assert loaded.train_points[last, 2].all() and loaded.train_points[:, 2].sum() > 20
