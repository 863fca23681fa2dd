"""What leads to no W&B run; test_wandb_sync.py has those that do."""

import json
from pathlib import Path

import pytest

from hypernets import UserError
from scripts.records_to_wandb import to_wandb
from training.logger import check_access, check_logger


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ({"kind": "tensorboard"}, "none or wandb"),
        ({"kind": "wandb", "mode": "cloud"}, "offline or online"),
        ({"kind": "wandb", "mode": "offline", "projet": "mine"}, "logger.projet"),
        ({"kind": "none", "project": "mine"}, "logger.project"),
    ],
)
def test_refusals(logger, message):
    with pytest.raises(UserError, match=message):
        check_logger({"logger": logger})


@pytest.mark.parametrize("content", ["{}", '{"id": "a'])
def test_damaged_notes_are_refused(tmp_path, content):
    (tmp_path / "wandb.json").write_text(content)
    with pytest.raises(UserError, match=f"{tmp_path}/wandb.json is (damaged|not whole)"):
        check_access({"logger": {"kind": "wandb", "mode": "offline"}}, tmp_path)


@pytest.mark.parametrize("change", [{"name": "../elsewhere"}, {"curve": [{}]}, {"settings": None}])
def test_a_bad_record_is_refused(tmp_path, change):
    path = sorted((Path(__file__).parents[2] / "results" / "runs").glob("*.json"))[0]
    (tmp_path / path.name).write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="is not a record|is damaged"):
        to_wandb(tmp_path / path.name, tmp_path / "runs")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
