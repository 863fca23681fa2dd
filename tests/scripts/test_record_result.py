"""Records of finished runs, and what is refused as one."""

import json
import shutil

import pytest

SCRIPT = "record_result"


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of a row of Table 2."""
    run = shutil.copytree(finished, tmp_path / "run")
    change(run, table="table2", row="wrn_40_1")
    return run


def change(run, **changes):
    """Change what a run's result says."""
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | changes))


def test_record_holds_what_the_run_shows(call_script, run, tmp_path):
    arguments = (run, "--to", tmp_path / "records", "--note", "alone")
    for _ in range(2):  # the same record again is no mistake
        done = call_script(SCRIPT, *arguments)
        assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "records").iterdir()
    record, result = json.loads(path.read_text()), json.loads((run / "result.json").read_text())
    assert done.stdout.strip() == str(path) and path.stem == result["name"]
    assert record["note"] == "alone" and record["test_error"] == result["test_error"]
    assert [row["step"] for row in record["curve"]] == [3, 6] and record["curve"][-1]["validation/error"] >= 0
    assert [session["last_step"] for session in record["sessions"]] == [6]
    assert str(tmp_path.parent.parent) not in json.dumps(record["settings"]), "a path of this machine"


def test_record_is_neither_overwritten_nor_made_twice(call_script, assert_refused, run, tmp_path):
    records = tmp_path / "records"
    assert call_script(SCRIPT, run, "--to", records).returncode == 0
    (path,) = records.iterdir()
    content = path.read_text()
    assert_refused(SCRIPT, run, "--to", records, "--note", "other", words=(str(path), "other content"))
    change(run, name="again", test_error=0.0)
    assert_refused(SCRIPT, run, "--to", records, words=("again.json", f"same run as {path.stem}"))
    assert list(records.iterdir()) == [path] and path.read_text() == content
    change(run, name="of_other_data", data="0" * 64)
    assert call_script(SCRIPT, run, "--to", records).returncode == 0


def test_a_run_that_went_on_after_its_result_is_refused(call_script, assert_refused, run, tmp_path):
    change(run, steps=5)
    assert_refused(SCRIPT, run, "--to", tmp_path, words=("a result after 5 steps", "trained further"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../evil"}, ("'../evil'",)),
        ({"settings": []}, ("settings is []",)),
        ({"validation_error": None}, ("validation_error is None",)),
        ({"table": None}, ("belongs to no table",)),
        ({"row": "wrn_16"}, ("table2/wrn_16",)),
    ],
)
def test_results_that_make_no_record(changes, words, assert_refused, run, tmp_path):
    change(run, **changes)
    assert_refused(SCRIPT, run, "--to", tmp_path / "records", words=words)
    assert not (tmp_path / "records").exists() and not list(tmp_path.glob("**/evil*"))


def test_runs_without_a_result(assert_refused, run, tmp_path):
    assert_refused(SCRIPT, tmp_path / "nothing", words=("nothing",))
    (run / "sessions.json").write_text("{}")
    assert_refused(SCRIPT, run, words=(str(run / "sessions.json"),))
    (run / "result.json").unlink()
    assert_refused(SCRIPT, run, words=("has not finished", f"-r {run}"))
