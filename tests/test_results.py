"""Every figure that the pages show comes from a record, except those in the text of results/comments/."""

import json
import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.text_sources import encode
from hypernets import UserError
from scripts.count_parameters import build_network, count
from scripts.make_pages import write
from scripts.paper_tables import ROWS
from scripts.record_result import metric_of, read_records
from scripts.train_command import compose
from training.settings import what_counts
from training.trained import WEIGHTS, load_network, read_weights

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "results"


@pytest.fixture
def copy(tmp_path):
    """The results and README.md, to be changed."""
    shutil.copytree(RESULTS, tmp_path / "results")
    shutil.copy(PROJECT / "README.md", tmp_path)
    return tmp_path


def lines_of(project: Path, table: str, network: str) -> list[str]:
    """The lines of a network in the figures of a page."""
    figures = (project / "results" / f"{table}.md").read_text().partition("## Figures")[2].split("\n\n")[1]
    return [line for line in figures.splitlines() if line.startswith(f"| {network} |")]


def test_records_are_whole():
    for record in (each for folder in ("runs", "tuning", "optimizers") for each in read_records(RESULTS / folder)):
        key = metric_of(record).key
        assert record["curve"][-1]["step"] == record["steps"]
        assert record[f"validation_{key}"] == min(row[f"validation/{key}"] for row in record["curve"])


def test_pages_are_what_the_records_say():
    write(PROJECT, check=True)


def test_a_run_is_shown_with_its_hypernetwork():
    plain, hyper = (lines_of(PROJECT, "table2", network) for network in ("WRN-40-1", "Hyper WRN-40-1"))
    assert plain and not any("static" in line for line in plain)
    assert hyper and all("| wrn_40_1, static, " in line for line in hyper)


def test_edited_pages_and_records_are_noticed(copy):
    page = copy / "results" / "table2.md"
    page.write_text(page.read_text().replace("562,762", "562,761"))
    with pytest.raises(UserError, match=r"records say: results/table2\.md;"):
        write(copy, check=True)
    write(copy)
    write(copy, check=True)
    record = next((copy / "results" / "runs").glob("mnist-*.json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"test_error": 9.0}))
    with pytest.raises(UserError, match=r"results/table7\.md"):
        write(copy, check=True)


def test_seeds_are_averaged_and_missing_rows_say_so(copy):
    runs = copy / "results" / "runs"
    record = json.loads(next(runs.glob("cifar10-wrn_40_1-static-*")).read_text())
    for path in runs.iterdir():
        path.unlink()
    # precision=auto comes to bf16 or to float32, depending on the processor, so runs that ask for one belong to them.
    for seed, (error, precision) in enumerate(((8.0, "auto"), (9.0, "float32"), (10.0, "bf16"))):
        settings = record["settings"] | {"seed": seed, "precision": precision}
        changes = {"seed": seed, "test_error": error, "name": f"run{seed}", "settings": settings}
        (runs / f"run{seed}.json").write_text(json.dumps(record | changes))
    write(copy)
    (hyper,), (plain,) = (lines_of(copy, "table2", network) for network in ("Hyper WRN-40-1", "WRN-40-1"))
    assert "| 8.02 | 9.00 ± 1.00 |" in hyper and "n = 3" in hyper
    assert "| not run | 6.73 |" in plain


@pytest.mark.parametrize("change", ["split_seed", "rate"])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(copy, change):
    runs = copy / "results" / "runs"
    (record,) = (json.loads(path.read_text()) for path in runs.glob("cifar10-wrn_40_2-none-*.json"))
    settings = record["settings"]
    changes = {
        "split_seed": {"settings": settings | {"dataset": settings["dataset"] | {"split_seed": 1}}},
        "rate": {"settings": settings | {"schedule": settings["schedule"] | {"peak": 0.1}}},
    }
    (runs / "other.json").write_text(json.dumps(record | {"name": "other"} | changes[change]))
    write(copy)
    assert ["n = 1" in line for line in lines_of(copy, "table2", "WRN-40-2")] == [True, True]


def test_two_records_of_one_run_are_refused(copy):
    record = next((copy / "results" / "runs").glob("cifar10-*.json"))
    shutil.copy(record, record.with_name("cifar10-once-more.json"))
    with pytest.raises(UserError, match="is of the same run as"):
        write(copy)


@pytest.mark.parametrize("missing", ["command", "settings", "curve", "validation_error"])
def test_what_is_no_record_is_named(copy, missing):
    path = next((copy / "results" / "runs").glob("cifar10-*.json"))
    record = json.loads(path.read_text())
    del record[missing]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"{path.name} .*has no .*{missing}"):
        write(copy)


def test_pictures_are_drawn_when_asked_for(copy):
    pictures = [copy / "results" / name for name in ("table2.png", "findings_hours.png")]
    for picture in pictures:
        picture.unlink(missing_ok=True)
    write(copy)
    assert not any(picture.exists() for picture in pictures)
    write(copy, pictures=True)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_printed_commands_lead_to_the_settings_of_their_records():
    for record in read_records(RESULTS / "runs"):
        if "experiment" in record:  # the others are older than the present settings, and the pages print no command
            settings = compose(shlex.split(record["command"])[2:])
            assert what_counts(settings) == what_counts(record["settings"]), record["name"]


def test_readme_shows_the_figures_of_the_first_runs():
    readme = (PROJECT / "README.md").read_text()
    for path in (RESULTS / "first_runs").glob("*.json"):
        record = json.loads(path.read_text())
        metric = metric_of(record)
        assert f"{record[f'test_{metric.key}']:.{metric.digits}f}" in readme, path


def test_the_rows_have_the_counts_of_the_networks():
    for row in ROWS:
        if row.table == "table2":  # the paper prints thousands
            assert row.parameters == f"{row.counted / 1e6:.3f} M"
        assert count(build_network(compose([f"experiment={row.experiment}"]))) == row.counted, row


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_weights_belong_to_a_record_and_can_be_used(path):
    trained = read_weights(path.stem)
    records = read_records(RESULTS / "runs")
    settings = what_counts(trained.settings)
    (record,) = (each for each in records if what_counts(each["settings"]) == settings)
    assert (trained.step, count(load_network(Path(path.stem)))) == (record["best_step"], record["parameters"])
    assert sum(each.stat().st_size for each in WEIGHTS.iterdir()) < 8e6


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*lstm*.safetensors")), ids=lambda path: path.stem)
def test_published_character_models_know_english(path):
    model = load_network(Path(path.stem))
    text = "the company said it expects to report a loss for the third quarter\n"
    ids = torch.tensor(encode(text, model.vocabulary))
    with torch.no_grad():
        logits, _ = model(ids[:-1, None].long())
    bits = F.cross_entropy(logits[:, 0], ids[1:].long()).item() / math.log(2)
    assert bits < 2


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*wrn*.safetensors")), ids=lambda path: path.stem)
def test_published_image_classifiers_know_the_bundled_images(path):
    with np.load(PROJECT / "data" / "cifar10_sample.npz") as sample:
        train, test, labels = (torch.from_numpy(sample[name]) for name in ("x_train", "x_test", "y_test"))
    mean, std = train.double().mean((0, 1, 2)), train.double().flatten(0, 2).std(dim=0)
    images = ((test - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        error = (load_network(Path(path.stem))(images).argmax(dim=1) != labels).double().mean().item()
    assert error < 0.15
