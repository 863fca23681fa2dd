"""Every figure that the pages show comes from a record, but for those in the text of results/comments/."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.count_parameters import rows
from scripts.make_tables import write
from scripts.paper_tables import ROWS
from scripts.records import metric_of

PROJECT = Path(__file__).resolve().parents[1]
RECORDS = [path for folder in ("runs", "tuning") for path in sorted((PROJECT / "results" / folder).glob("*.json"))]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_whole(path):
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
    metric = metric_of(record)
    assert record[f"validation_{metric}"] == min(row[f"validation/{metric}"] for row in record["curve"])
    assert path.stat().st_size < 20_000


@pytest.fixture
def copy(tmp_path):
    """The results and the page that shows them, to be changed."""
    shutil.copytree(PROJECT / "results", tmp_path / "results")
    shutil.copy(PROJECT / "README.md", tmp_path)
    return tmp_path


def test_pages_and_pictures_are_what_the_records_say():
    write(PROJECT, check=True)


def test_an_edited_page_is_noticed(copy):
    page = copy / "results" / "table2.md"
    page.write_text(page.read_text().replace("562,762", "562,761"))
    command = [sys.executable, str(PROJECT / "scripts" / "make_tables.py"), "--project", str(copy)]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "do not match the records: results/table2.md;" in done.stderr and len(done.stderr.splitlines()) == 1
    assert subprocess.run(command).returncode == 0
    write(copy, check=True)


def test_an_edited_record_is_noticed(copy):
    record = next((copy / "results" / "runs").glob("cifar10-*.json"))
    content = json.loads(record.read_text())
    content["curve"][0]["validation/error"] += 1
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"match the records: results/table2.png;"):
        write(copy, check=True)
    content["test_error"] = 1.0
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results/table2.md, .*README.md, results/table2.png;"):
        write(copy, check=True)
    write(copy)
    write(copy, check=True)


def test_seeds_are_averaged_and_missing_rows_say_so(copy):
    runs = copy / "results" / "runs"
    record = json.loads(next(path for path in RECORDS if "wrn_40_1-static" in path.name).read_text())
    for path in runs.iterdir():
        path.unlink()
    del record["test_lossless_error"]  # of a copy with altered test images, which is not compared with the paper
    for seed, error in enumerate((8.0, 9.0, 10.0)):
        command = f"{record['command']} seed={seed}"
        settings = record["settings"] | {"seed": seed}
        changes = {"seed": seed, "test_error": error, "command": command, "name": f"run{seed}", "settings": settings}
        (runs / f"run{seed}.json").write_text(json.dumps(record | changes))
    write(copy)
    rows = (copy / "results" / "table2.md").read_text().splitlines()
    assert any("| Hyper WRN-40-1 | 8.02 | 9.00 ± 1.00 | +0.98 |" in row and row.endswith("| 3 |") for row in rows)
    assert any(row.startswith("| WRN-40-1 | 6.73 | not run |") for row in rows)


@pytest.mark.parametrize("change", ["split_seed", "precision", "rate"])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(copy, change):
    runs = copy / "results" / "runs"
    (record,) = (json.loads(path.read_text()) for path in runs.glob("cifar10-wrn_40_2-none-*.json"))
    settings = record["settings"]
    if change == "split_seed":
        record |= {"settings": settings | {"split_seed": 1}}
    elif change == "precision":  # auto, on another processor
        record |= {"precision": "float32"}
    else:
        record |= {"settings": settings | {"schedule": settings["schedule"] | {"peak": 0.1}}}  # of the same command
    (runs / "other.json").write_text(json.dumps(record | {"name": "other"}))
    write(copy)
    rows = (copy / "results" / "table2.md").read_text().splitlines()
    assert sum(row.startswith("| WRN-40-2 ") and row.endswith("| 1 |") for row in rows) == 2


def test_two_records_of_one_run_are_refused(copy):
    record = next((copy / "results" / "runs").glob("cifar10-*.json"))
    shutil.copy(record, record.with_name("cifar10-once-more.json"))
    with pytest.raises(ValueError, match="is of the same run as .*; keep one of them"):
        write(copy)


@pytest.mark.parametrize("missing", ["command", "settings", "curve", "test_error"])
def test_what_is_no_record_is_named(copy, missing):
    path = next((copy / "results" / "runs").glob("cifar10-*.json"))
    record = json.loads(path.read_text())
    del record[missing]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{path.name} is not a record of a run, it has no {missing}"):
        write(copy)


def test_picture_of_no_records_goes(copy):
    for path in (copy / "results" / "runs").glob("wiki_6mb-*"):
        path.unlink()
    with pytest.raises(ValueError, match="results/table4.png"):
        write(copy, check=True)
    write(copy)
    assert not (copy / "results" / "table4.png").exists()
    write(copy, check=True)


def test_other_data_is_not_compared_with_the_paper(copy):
    write(copy)
    for table, words in (("table2", "| altered test images |"), ("table4", "| other data |")):
        assert words in (copy / "results" / f"{table}.md").read_text()


def test_the_rows_have_the_counts_of_the_networks():
    counted = {(table, name): parameters for table, name, parameters, _ in rows()}
    for row in ROWS:
        table, name = row.experiment.split("/")
        key = name if table in ("table3", "table4") else row.network
        assert counted[f"Table {table[5]}", key] == row.counted
