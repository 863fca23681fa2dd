"""Records of finished runs, and what is refused as one."""

import json
import shutil

SCRIPT = "record_result.py"


def test_mistakes(assert_refused, image_run, tmp_path):
    assert_refused(SCRIPT, tmp_path / "nothing", words=("not a run", "nothing"))
    assert_refused(SCRIPT, image_run, "--to", tmp_path / "records", words=("no row of a table", "train.py"))
    foreign = shutil.copytree(image_run, tmp_path / "foreign")
    result = json.loads((foreign / "result.json").read_text())
    result["command"] += " experiment=table2/mine"  # make_tables.py would have no row for it
    (foreign / "result.json").write_text(json.dumps(result))
    assert_refused(SCRIPT, foreign, "--to", tmp_path / "records", words=("no row of a table", "experiment=table2/mine"))
    assert not (tmp_path / "records").exists()
    unfinished = shutil.copytree(image_run, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    assert_refused(SCRIPT, unfinished, words=("has not finished", f"-r {unfinished}"))


def test_a_record_is_not_overwritten(call_script, assert_refused, image_run, tmp_path):
    run, records = shutil.copytree(image_run, tmp_path / "run"), tmp_path / "records"
    result = json.loads((run / "result.json").read_text())
    result["command"] += " experiment=table2/wrn_40_1"
    (run / "result.json").write_text(json.dumps(result))
    arguments = (run, "--to", records, "--note", "alone")
    for _ in range(2):  # the same record again is no mistake
        done = call_script(SCRIPT, *arguments)
        assert done.returncode == 0 and done.stdout.strip() == str(records / f"{image_run.name}.json")
    (record,) = records.iterdir()
    content = record.read_text()
    kept = json.loads(content)
    assert kept["note"] == "alone" and kept["curve"][-1]["step"] == 1
    assert not {"root", "path"} & set(kept["settings"]["dataset"])
    assert_refused(SCRIPT, run, "--to", records, "--note", "not alone", words=("exists with other content", "remove"))
    assert record.read_text() == content
    again = shutil.copytree(run, tmp_path / "again")
    (again / "result.json").write_text(json.dumps(result | {"name": "again", "test_error": 0.0}))
    assert_refused(SCRIPT, again, "--to", records, words=("again.json is of the same run as", image_run.name))
    assert len(list(records.iterdir())) == 1
