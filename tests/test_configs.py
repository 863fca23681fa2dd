"""The configuration files: they compose, lead to the paper's networks, and have no key that nothing reads."""

import inspect
import json
import re
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import train as program
from models import CHARACTER_MODELS, build_character_model, build_image_classifier, check_combination
from training import loop, wandb_logger
from training.logger import NoLogger
from training.schedule import build_schedule

CONFIGS = Path(program.__file__).parent / "configs"
EXPERIMENTS = sorted(
    str(path.relative_to(CONFIGS / "experiment"))[: -len(".yaml")] for path in CONFIGS.glob("experiment/*/*")
)
BUDGETS = sorted(path.stem for path in CONFIGS.glob("budget/*.yaml"))
PARAMETERS = {
    "table2/wrn_40_1": 562_762,
    "table2/hyper_wrn_40_1": 96_602,
    "table2/wrn_40_2": 2_235_530,
    "table2/hyper_wrn_40_2": 147_610,
    "table7/mnist_convnet": 21_210,
    "table7/hyper_mnist_convnet": 12_910,
}
SMALL = ["units.smoke=8", "hyper_units.smoke=8"]  # of a recurrent network
# Runs that together read every key of every group.
RUNS = [
    ["main_net.depth=10", "logger=wandb_offline"],
    ["main_net.depth=10", "logger=none", "hypernet=none", "optimizer=sgd", "schedule=paper/sgd"],
    ["main_net=lstm", "hypernet=hyperlstm", "dataset=shakespeare", "logger=none", "schedule=constant", *SMALL],
    ["main_net=rnn", "hypernet=hyperrnn", "dataset=shakespeare", "logger=none", *SMALL],
]


def composed(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def plain(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def leaves(settings: dict) -> set[tuple[str, ...]]:
    """(group, key) of every setting in a group, and (key,) of the others."""
    return {
        (key, *rest)
        for key, value in settings.items()
        for rest in ([(inner,) for inner in value] if isinstance(value, dict) else [()])
    }


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_composes_with_every_budget(experiment, budget):
    settings = plain(composed(f"experiment={experiment}", f"budget={budget}"))
    assert settings["table"] == experiment.partition("/")[0]
    assert settings["budget"]["name"] == budget
    check_combination(settings["main_net"]["name"], settings["hypernet"]["name"])
    steps = loop.Budget(**{key: value for key, value in settings["budget"].items() if key != "name"}).steps
    rate = build_schedule(**settings["schedule"], steps=steps)
    assert all(rate(step) > 0 for step in (0, steps // 2, steps - 1))


def test_paper_budget_is_the_paper_protocol():
    plain_net, hyper = (plain(composed(f"experiment=table2/{name}")) for name in ("wrn_40_1", "hyper_wrn_40_1"))
    assert (plain_net["budget"]["steps"], hyper["budget"]["steps"]) == (140_000, 672_000)
    assert plain_net["schedule"]["rates"] == [0.1, 0.02, 0.004, 0.0008, 0.00016]
    assert hyper["schedule"]["rates"] == [0.002, 0.001, 0.0002, 0.00005]
    assert (plain_net["optimizer"]["name"], plain_net["optimizer"]["momentum"]) == ("sgd", 0.9)
    for settings in (plain_net, hyper):
        assert settings["schedule"]["until"][-1] == settings["budget"]["steps"]
        assert settings["dataset"]["batch_size"] == 128


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.startswith(("table3/", "table4/"))])
def test_paper_budget_of_the_language_models(experiment):
    settings = plain(composed(f"experiment={experiment}"))
    assert settings["dataset"]["batch_size"] == 128
    assert (settings["optimizer"]["name"], settings["optimizer"]["gradient_clip"]) == ("adam", 1.0)
    assert (settings["schedule"]["name"], settings["schedule"]["rate"]) == ("constant", 0.001)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_model_of_an_experiment(experiment):
    settings = plain(composed(f"experiment={experiment}", "budget=smoke", *SMALL))
    if settings["main_net"]["name"] in CHARACTER_MODELS:
        network = build_character_model(settings["main_net"], settings["hypernet"], "abcdefgh")
    else:
        shape = (1, 28, 28) if settings["dataset"]["source"] == "mnist" else (3, 32, 32)
        network = build_image_classifier(settings["main_net"], settings["hypernet"], 10, shape)
    if experiment in PARAMETERS:  # tests/test_results.py has the counts of the language models
        assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[experiment]


def test_all_image_experiments_have_a_count():
    assert PARAMETERS.keys() == {name for name in EXPERIMENTS if name.startswith(("table2/", "table7/"))}


def test_every_setting_is_read(monkeypatch, tmp_path):
    """Under another name, a setting must be missed, or refused, by one of the runs that have it."""

    class Instant(loop.Trainer):
        def train(self, saved=None):
            self.state.best = {"step": 0, self.task.metric: 0.0}

        def test(self):
            return {}

    signature = inspect.signature(wandb_logger.WandbLogger)

    class Logger(NoLogger):
        def __init__(self, *arguments, **keywords):
            signature.bind(*arguments, **keywords)  # without the seconds that W&B takes

    monkeypatch.setattr(wandb_logger, "WandbLogger", Logger)
    monkeypatch.setattr(loop, "Trainer", Instant)
    monkeypatch.setattr(program.provenance, "commit", str)
    for name in ("build_images", "build_text"):
        monkeypatch.setattr(program, name, built_once(getattr(program, name)))

    read, known = set(), set()
    for overrides in RUNS:
        settings = plain(composed(f"runs={tmp_path}", "device=cpu", *overrides))
        for interpolated in ("resume", "steps", "units", "hyper_units", "streams"):  # by `launch`; see the next test
            del settings[interpolated]
        program.train(settings, [], None)  # as it is, it must run
        places = leaves(settings)
        known |= places
        for place in places - read:
            try:
                program.train(renamed(settings, place), [], None)
            except (KeyError, TypeError, ValueError):
                read.add(place)
    assert known == read

    for group in ("main_net", "hypernet", "optimizer", "budget", "schedule", "logger", "dataset"):
        for path in (CONFIGS / group).rglob("*.yaml"):
            choice = path.relative_to(CONFIGS / group).with_suffix("")
            settings = OmegaConf.to_container(composed(f"{group}={choice}"))[group]
            assert leaves({group: settings}) <= known, "settings that no run of this test has"


@pytest.mark.parametrize("table", ["steps", "units", "hyper_units", "streams"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_reads_its_sizes(table, budget):
    config = composed("main_net=lstm", "hypernet=hyperlstm", "dataset=ptb_char", f"budget={budget}")
    assert set(config[table]) == set(BUDGETS)
    OmegaConf.set_struct(config, False)
    del config[table][budget]
    with pytest.raises(OmegaConfBaseException):
        plain(config)


def test_slurm_launcher_composes():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", ["hydra/launcher=slurm"], return_hydra_config=True)
    assert config.hydra.launcher.gpus_per_node == 1


def test_sweep_makes_a_run_directory_for_each_job(launcher):
    done = launcher.run("-m", *launcher.new("budget.steps=1", "hypernet=none,static", "seed=0,1"))
    assert done.returncode == 0, done.stderr
    runs = [path.parent for path in launcher.runs.glob("*/result.json")]
    names = {re.sub(r"-\d{8}-\d{6}$", "", run.name) for run in runs}
    assert names == {
        f"cifar10_sample-wrn_10_1-{hypernet}-s{seed}" for hypernet in ("none", "static") for seed in (0, 1)
    }
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert f"{result['settings']['hypernet']['name']}-s{result['seed']}" in run.name
        overrides = json.loads((run / "overrides.json").read_text())
        assert f"seed={result['seed']}" in overrides and not any("," in override for override in overrides)
    again = launcher.call("-r", str(runs[0]), "budget.steps=2")
    assert again.returncode == 0, again.stderr
    assert json.loads((runs[0] / "result.json").read_text())["steps"] == 2


def test_a_job_that_fails_does_not_end_the_sweep(launcher):
    done = launcher.run("-m", *launcher.new("budget.steps=1", "main_net.depth=11,10"))
    assert done.returncode == 1
    assert "depth 11" in done.stderr and "Traceback" not in done.stderr
    (finished,) = launcher.runs.glob("*/result.json")
    assert json.loads(finished.read_text())["settings"]["main_net"]["depth"] == 10


def built_once(build):
    """`build`, which reads data from the disk only where the settings' names are new."""
    built = {}

    def remembered(**settings):
        names = tuple(sorted(settings))
        if names not in built:
            built[names] = build(**settings)
        return built[names]

    return remembered


def renamed(settings: dict, place: tuple[str, ...]) -> dict:
    """The settings with the one at `place` under another name."""
    key, *inner = place
    if inner:
        return {**settings, key: renamed(settings[key], tuple(inner))}
    return {f"{name}_renamed" if name == key else name: value for name, value in settings.items()}
