"""The configuration files: each composes, says what runs as it stands, and has only settings that are read."""

import re
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from data.images import ImageSplits
from hypernets import UserError
from training.distributed import Processes
from training.logger import check_logger
from training.optimizer import build_optimizer
from training.run import read_facts, read_result
from training.schedule import build_schedule
from training.settings import check_settings, flat
from training.tasks import (
    any_architecture,
    build_task,
    character_modelling,
    continual_classification,
    handwriting,
    image_classification,
    image_drawing,
    styled_diffusion,
    translation,
    uncertain_classification,
)

CONFIGS = Path(__file__).parents[1] / "configs"


def choices(group):
    return sorted(str(path.relative_to(CONFIGS / group).with_suffix("")) for path in CONFIGS.glob(f"{group}/**/*.yaml"))


LSTM = ["main_net=lstm", "hypernet=none"]
HYPERLSTM = ["dataset=shakespeare", "main_net=lstm", "hypernet=hyperlstm"]
ANY_SIZE = [
    *("dataset=mnist_any_architecture", "dataset.kind=arrays", "+dataset.path=cifar10_sample.npz"),
    *("dataset.validation_size=null", "dataset.split_seed=null"),
    *("main_net=mlp", "main_net.hidden_units=[256,256,256,256,256]"),
]
EXPERIMENTS = choices("experiment")
WITH_A_ROW = [
    name for name in EXPERIMENTS if f"row: {Path(name).name}\n" in (CONFIGS / f"experiment/{name}.yaml").read_text()
]
OF_THE_PAPER = [name for name in WITH_A_ROW if not name.startswith("taxonomy/")]


def composed(*overrides):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", list(overrides))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.fixture
def build_all(monkeypatch):
    """Builds all that settings describe, of its full size, and without data.

    No memory is needed, except where the hypernetwork measures what it generates.
    """
    shapes = dict.fromkeys(("mnist", "slanted_mnist", "thick_mnist", "fashion_mnist"), (1, 28, 28))

    def stub_images(dataset, **place):
        shape, train = shapes.get(dataset["kind"], (3, 32, 32)), SimpleNamespace(num_examples=1000)
        return ImageSplits(train, validation=None, test=None, num_classes=10, image_shape=shape, digest="")

    def stub_tasks(dataset, **place):
        classes = dataset["classes_per_task"] or 10
        return SimpleNamespace(image_shape=(1, 28, 28), num_classes=classes, tasks=dataset["tasks"])

    for task in (image_classification, image_drawing, any_architecture, styled_diffusion):
        monkeypatch.setattr(task, "build_images", stub_images)
    monkeypatch.setattr(continual_classification, "build_tasks", stub_tasks)
    monkeypatch.setattr(styled_diffusion, "load_base", lambda run, network: run)
    monkeypatch.setattr(uncertain_classification, "build_with_unknown", stub_images)
    monkeypatch.setattr(character_modelling, "build_text", lambda *_, **__: SimpleNamespace(vocabulary="abcdefgh"))
    stub_strokes = SimpleNamespace(mean=[0.0, 0.0], std=[1.0, 1.0])
    monkeypatch.setattr(handwriting, "build_strokes", lambda *_, **__: stub_strokes)

    def stub_pairs(dataset, **place):
        return SimpleNamespace(subwords=range(dataset["vocabulary_size"]), examples=([], []))

    monkeypatch.setattr(translation, "build_translation", stub_pairs)

    def build(settings):
        check_settings(settings)
        check_logger(settings)
        measured = settings["hypernet"]["kind"] not in ("none", "hyperlstm", "hyperrnn")
        device = torch.device("cpu" if measured else "meta")
        with device:
            _, task = build_task(settings, Processes(0, 1, device))
        build_optimizer(task, settings["optimizer"])
        rate = build_schedule(settings["schedule"], settings["steps"])
        assert all(rate(step) > 0 for step in (0, settings["steps"] // 2, settings["steps"] - 1))

    return build


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_builds_and_its_name_tells_its_size_and_its_row(build_all, experiment):
    settings = composed(f"experiment={experiment}")
    build_all(settings)
    table, _, name = experiment.rpartition("/")
    main_net = settings["main_net"]
    if main_net["kind"] == "wide_resnet":
        assert main_net["name"] == f"wrn_{main_net['depth']}_{main_net['width']}" and main_net["name"] in name
    elif main_net["kind"] == "encoder_decoder":
        assert (
            main_net["name"].endswith(f"encoder_decoder_{main_net['hidden_size']}")
            and str(main_net["hidden_size"]) in name
        )
    elif main_net["kind"] == "lstm":
        assert main_net["name"].endswith(f"lstm_{main_net['hidden_size']}")
        assert not table or str(main_net["hidden_size"]) in name
    if table:
        assert settings["table"] == table and f"{table}/{settings['row']}" in WITH_A_ROW


@pytest.mark.parametrize("experiment", OF_THE_PAPER)
def test_protocol_of_the_paper(experiment):
    settings = composed(f"experiment={experiment}")
    optimizer, schedule = settings["optimizer"], settings["schedule"]
    batch_size = {"table5": 32}.get(settings["table"], 1000 if settings["dataset"]["name"] == "mnist" else 128)
    assert settings["dataset"]["batch_size"] == batch_size
    if experiment.startswith("table2/wrn"):
        assert (settings["steps"], optimizer) == (140_000, {"kind": "sgd", "momentum": 0.9})
        assert schedule["rates"] == [0.1, 0.02, 0.004, 0.0008, 0.00016]
    elif experiment.startswith("table2/hyper"):
        assert (settings["steps"], optimizer["kind"]) == (672_000, "adam")
        assert schedule["rates"] == [0.002, 0.001, 0.0002, 0.00005]
    elif experiment.startswith("table6"):
        assert optimizer["kind"] == "adam" and schedule == {"kind": "constant", "rate": 0.0002}
        assert settings["gradient_clip"] == 5.0 and settings["main_net"]["num_layers"] == 8
    elif experiment.startswith("figure8"):
        assert settings["dataset"]["padding"] == 0 and settings["main_net"]["hidden_size"] == 256
    else:
        rate = 0.0001 if settings["table"] == "table5" else 0.001
        assert optimizer["kind"] == "adam" and schedule == {"kind": "constant", "rate": rate}
        assert settings["gradient_clip"] == {"table7": None, "table5": 5.0}.get(settings["table"], 1.0)
    if "table2" in experiment:
        assert schedule["until"][-1] == settings["steps"] and settings["main_net"]["kernel_decay"] == 5e-4


def of(condition):
    return [f"hypernet.condition={condition}", "hypernet.condition_size=8"]


COMBINATIONS = [
    ["main_net=wide_resnet", "hypernet=static", "optimizer=sgd", "schedule=table8"],
    ["main_net=mnist_convnet", "hypernet=none", "optimizer=adam", "schedule=table9", "dataset=mnist"],
    ["main_net=torchvision", "hypernet=static", "optimizer=muon", "schedule=constant"],
    ["main_net=fully_connected", "hypernet=coordinates", "optimizer=adam", "dataset=mnist"],
    ["main_net=torchvision", "hypernet=none", "main_net.model=mobilenet_v3_small", "main_net.small_images=false"],
    ["main_net=lstm", "hypernet=none", "dataset=shakespeare", "schedule=one_cycle"],
    ["main_net=layer_norm_lstm", "hypernet=hyperlstm", "dataset=shakespeare", "logger=wandb_online"],
    ["main_net=encoder_decoder", "hypernet=hyperlstm", "dataset=tatoeba", "schedule=gnmt"],
    ["main_net=rnn", "hypernet=hyperrnn", "dataset=shakespeare", "logger=none"],
    ["main_net=rnn", "hypernet=hyperrnn", "dataset=scribbles", "schedule=table5"],
    ["main_net=mlp", "hypernet=once", "hypernet.units=[4]", "dataset=mnist"],
    ["main_net=mlp", "hypernet=multiple", "dataset=fashion_mnist"],
    ["main_net=mlp", "hypernet=chunk_wise", "dataset=permuted_mnist", *of("task"), "schedule=repeated_cycle"],
    ["main_net=mlp", "hypernet=component_wise", "dataset=split_mnist", *of("task")],
    ["main_net=mlp", "hypernet=separate", "dataset=split_mnist"],
    ["main_net=mlp", "hypernet=once", "dataset=three_polynomials", *of("task")],
    ["main_net=mlp", "hypernet=described", "dataset=mnist_any_architecture"],
    ["main_net=mlp", "hypernet=chunk_wise", "dataset=mnist_or_fashion", *of("noise")],
    ["main_net=mlp", "hypernet=separate", "dataset=toy_cubic", "+hypernet.members=3"],
    ["main_net=coordinate_mlp", "hypernet=component_wise", "hypernet.body=cnn", "dataset=mnist_drawing", *of("data")],
    ["main_net=coordinate_mlp", "hypernet=once", "hypernet.body=rnn", "hypernet.units=[8]", "dataset=sinusoids"]
    + of("data"),
    ["main_net=denoiser", "hypernet=key_value", "dataset=mnist_styles", "dataset.path=base"],
    ["main_net=denoiser", "hypernet=low_rank", "dataset=mnist_styles", "dataset.path=base"],
]


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_combination_builds(build_all, overrides):
    build_all(composed(*overrides))


def test_every_choice_is_in_a_combination():
    used = {override for overrides in COMBINATIONS for override in overrides}
    for group in ("main_net", "hypernet", "optimizer", "schedule"):
        assert {f"{group}={choice}" for choice in choices(group)} <= used


@pytest.mark.parametrize("dataset", choices("dataset"))
def test_every_data_set_takes_its_settings(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERNETS_DATA", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    given = [f"dataset.path={tmp_path}/nothing"] if dataset in ("arrays", "text") else []
    fitting = next((each for each in COMBINATIONS if f"dataset={dataset}" in each), [f"dataset={dataset}"])
    networks = {"translation": ["main_net=encoder_decoder", "hypernet=none"], "image_classification": []}
    task = composed(f"dataset={dataset}", *given)["dataset"]["task"]
    network = [] if len(fitting) > 1 else networks.get(task, LSTM)
    try:
        build_task(composed(*fitting, *given, *network), Processes(0, 1, torch.device("cpu")))
    except UserError as refused:
        assert str(tmp_path) in str(refused)  # because nothing is there


def test_optimizer_changes_nothing_else():
    for overrides in ([], ["experiment=table2/wrn_40_1"], ["experiment=table3/lstm_256"]):
        adam, sgd = (flat(composed(*overrides, f"optimizer={choice}")) for choice in ("adam", "sgd"))
        assert {key for key in adam.keys() | sgd.keys() if adam.get(key) != sgd.get(key)} == {
            "optimizer.kind",
            "optimizer.betas",
            "optimizer.momentum",
        }


def test_what_is_printed_is_literal(launcher):
    """No interpolation to work out, and no table of what other runs would have."""
    for arguments in (["run=mine"], ["experiment=table3/lstm_256", "seed=1"]):
        printed = flat(yaml.safe_load(launcher.succeed(*arguments, "--cfg", "job").stdout))
        assert not any("${" in str(value) for value in printed.values())
        assert all(key.count(".") <= 1 for key in printed)
    assert printed["main_net.name"] == "lstm_256" and printed["table"] == printed["logger.group"] == "table3"


def test_slurm_launcher_requeues_a_job_in_time():
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        launcher = hydra.compose("train", ["hydra/launcher=slurm"], return_hydra_config=True).hydra.launcher
    assert launcher.gpus_per_node == 1
    assert launcher.signal_delay_s < 60 * launcher.timeout_min and launcher.max_num_timeout > 0


def test_sweep_makes_a_run_directory_for_each_job(launcher):
    launcher.succeed("-m", *launcher.new("steps=1", "hypernet=none,static", "seed=1"))
    runs = [path.parent for path in launcher.runs.glob("*/result.json")]
    names = {re.sub(r"-\d{8}-\d{6}$", "", run.name) for run in runs}
    assert names == {f"cifar10_sample-wrn_10_1-{net}-s1" for net in ("none", "static")}
    for run in runs:
        result, overrides = read_result(run), read_facts(run)["overrides"]
        assert result["settings"]["hypernet"]["name"] in run.name
        assert not any("," in override for override in overrides)
    launcher.succeed("-r", str(runs[0]), "steps=2")


def test_a_job_that_fails_does_not_end_the_sweep(launcher):
    done = launcher.call("-m", *launcher.new("steps=1", "main_net.depth=11,10"))
    assert done.returncode == 1
    assert "is 11" in done.stderr and "Traceback" not in done.stderr
    assert read_result(launcher.only_run())["settings"]["main_net"]["depth"] == 10


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*HYPERLSTM, "+hypernet.hidden_size=16"], "Nothing reads the setting hypernet.hidden_size"),
        ([*HYPERLSTM, "+hypernet.foo=1"], "Nothing reads the setting hypernet.foo"),
        ([*HYPERLSTM, "+main_net.batch_first=true"], "Nothing reads the setting main_net.batch_first"),
        (["main_net=mlp", "hypernet=once", *of("noise")], "this task gives no condition"),
        (["main_net=mlp", "hypernet=once", "hypernet.condition_size=3"], "hypernet.condition_size is 3"),
        (["dataset=toy_cubic", "main_net=mlp", "hypernet=none", "+hypernet.units=5"], "the setting hypernet.units"),
        (["dataset=toy_cubic", "main_net=mlp", "hypernet=none", "+dataset.device=cpu"], "the setting dataset.device"),
        (["dataset=three_polynomials", "main_net=mlp", "hypernet=separate", "+hypernet.units=5"], "hypernet.units"),
        (["main_net=mlp", "hypernet=none", "+dataset.small_size=4"], "dataset.small_size is 4"),
        ([*ANY_SIZE, "hypernet=none", "+hypernet.units=5"], "the setting hypernet.units"),
        ([*ANY_SIZE, "hypernet=none", "+dataset.small_size=4"], "the setting dataset.small_size"),
        (["main_net=torchvision", "main_net.model=shufflenet_v2_x1_0"], "no ResNet's stem"),
    ],
)
def test_settings_that_would_change_nothing_or_fail_later_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        build_task(composed(*overrides), Processes(0, 1, torch.device("cpu")))
