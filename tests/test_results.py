"""Every figure that the pages show comes from a record."""

import json
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
RECORDS = sorted((PROJECT / "results" / "runs").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_whole_and_shown(path):
    record = json.loads(path.read_text())
    for key in (
        "command",
        "commit",
        "seed",
        "hardware",
        "versions",
        "precision",
        "steps",
        "seconds",
        "parameters",
        "settings",
    ):
        assert record[key] is not None, key
    assert record["curve"][-1]["step"] == record["steps"]
    assert record["validation_error"] == min(row["validation/error"] for row in record["curve"])
    assert path.stat().st_size < 20_000

    shown = (PROJECT / "results" / "README.md").read_text()
    row = next(line for line in shown.splitlines() if path.name in line)
    for name in ("validation_error", "test_error", "test_lossless_error"):
        assert f"{record[name]:.2f}" in row, name
    assert f"{record['parameters']:,}" in row
    assert f"{record['steps']:,}" in row
    front = (PROJECT / "README.md").read_text()
    assert f"{record['validation_error']:.2f}" in front and f"{record['test_error']:.2f}" in front


def test_the_benchmark_is_shown():
    record = json.loads((PROJECT / "results" / "performance.json").read_text())
    front = (PROJECT / "README.md").read_text()
    for width in (1, 2):
        assert f"{record[f'wrn_40_{width}']['training_step_ratio']:.3f}" in front
        assert f"{record[f'wrn_40_{width}']['inference_ratio']:.3f}" in front
    assert f"{record['pipeline_images_per_second']:,.0f}" in front
