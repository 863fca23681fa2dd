"""Train a network of the HyperNetworks paper.

    python train.py                                              # the default: bundled data, a couple of minutes
    python train.py experiment=table2/hyper_wrn_40_2             # a row of Table 2, the paper's protocol
    python train.py experiment=table2/hyper_wrn_40_1 budget=cpu  # one scaled down to an hour or so on two cores
    python train.py main_net=lstm hypernet=hyperlstm dataset=shakespeare  # a language model, on bundled text
    python train.py -r [RUN] [OVERRIDES]                         # resume RUN, or the most recent run
    python train.py -m hypernet=none,static seed=0,1,2           # a sweep
    torchrun --nproc_per_node=2 train.py                         # data parallel, same global batch

Everything that a run leaves behind is in runs/NAME/, see training/run_directory.py.
"""

import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn

from data.build import TEXT_SOURCES, build_images, build_text
from data.images import ImageSplits
from data.text import TextSplits
from models import CHARACTER_MODELS, build_character_model, build_image_classifier, check_combination
from training import checkpoint, loop, provenance
from training.command_line import check_settings, one_line_errors
from training.distributed import Processes, start_processes
from training.logger import NoLogger, open_logger
from training.optimizer import build_optimizer, check_gradient_clip
from training.precision import resolve_precision
from training.resume import refuse_changes, rewrite_resume
from training.run_directory import RunDirectory, read_settings, require_same_data
from training.schedule import build_schedule
from training.tasks import CharacterModelling, ImageClassification


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits | TextSplits, nn.Module]:
    """Build the splits, and the task on its device, that the settings of a run describe."""
    main_net, hypernet = settings["main_net"], settings["hypernet"]
    check_combination(main_net["name"], hypernet["name"])
    dataset = {key: value for key, value in settings["dataset"].items() if key != "name"}  # that is for people
    dataset |= {"device": processes.device, "rank": processes.rank, "world_size": processes.world_size}
    reads_text = main_net["name"] in CHARACTER_MODELS
    if reads_text != (dataset["source"] in TEXT_SOURCES):
        raise ValueError(
            f"The main network {main_net['name']!r} reads {'text' if reads_text else 'images'}, but the data set "
            f"{settings['dataset']['name']!r} holds {'images' if reads_text else 'text'}; choose another dataset, "
            f"such as dataset={'shakespeare' if reads_text else 'cifar10_sample'}."
        )
    with processes.first_before_others():  # so that one process downloads
        if reads_text:
            splits = build_text(**dataset)
        else:
            splits = build_images(**dataset, split_seed=settings["split_seed"], seed=settings["seed"])
    torch.manual_seed(settings["seed"])
    if reads_text:
        task = CharacterModelling(build_character_model(main_net, hypernet, splits.vocabulary))
    else:
        network = build_image_classifier(main_net, hypernet, splits.num_classes, splits.image_shape)
        task = ImageClassification(network, main_net["kernel_decay"])
    return splits, task.to(processes.device, memory_format=torch.channels_last)  # as the images are


def train(settings: dict[str, Any], overrides: list[str], resume: Path | None) -> None:
    """Run one training from its settings to its result.

    Args:
        settings: the composed configuration as plain values.
        overrides: the command line that led to it, for a later resume.
        resume: the directory of the run to go on with, or None for a new run.
    """
    processes = start_processes(settings["device"])
    precision = resolve_precision(settings["precision"], processes.device)
    budget = loop.Budget(**{key: value for key, value in settings["budget"].items() if key != "name"})
    learning_rate = build_schedule(**settings["schedule"], steps=budget.steps)

    run = reopen_run(resume, settings) if resume is not None and processes.is_first else None
    if processes.broadcast(resume is not None and processes.is_first and run is None):
        return  # it is finished
    splits, task = build(settings, processes)
    optimizer_settings = dict(settings["optimizer"])
    gradient_clip = optimizer_settings.pop("gradient_clip")
    check_gradient_clip(gradient_clip)
    optimizer = build_optimizer(task.parameters(), **optimizer_settings)
    saved = None
    if processes.is_first:
        if resume is not None:
            require_same_data(run.path, splits.digest)
            saved = checkpoint.load_checkpoint(run.path)
        else:
            run = RunDirectory.create(new_run_path(settings), overrides, OmegaConf.to_yaml(settings), splits.digest)
    saved = processes.broadcast(saved)

    facts = facts_of_session(overrides, precision, processes)
    trainer = loop.Trainer(
        task=task,
        splits=splits,
        optimizer=optimizer,
        learning_rate=learning_rate,
        gradient_clip=gradient_clip,
        budget=budget,
        seed=settings["seed"],
        precision=precision,
        compile_task=settings["compile"],
        sync_batch_norm=settings["sync_batch_norm"],
        processes=processes,
        run=run,
        session=facts,
        logger=NoLogger(),
    )
    if saved is not None:
        trainer.restore(saved)
        if run is not None:  # no earlier: a resume that is refused changes nothing
            run.truncate_metrics(saved["metrics_size"])  # rows from after the checkpoint come again
            run.note_resume(overrides, OmegaConf.to_yaml(settings))
    try:
        trainer.logger = open_logger(settings, run)
        trainer.train()
        record_result(trainer, settings, facts)
    except BaseException as reason:
        trainer.logger.finish(exit_code=1)
        if isinstance(reason, loop.Interrupted) and run is not None:
            again = f"python train.py -r {shlex.quote(str(run.path))}"
            print(f"Stopped at step {trainer.state.step} by {reason}; resume with: {again}", file=sys.stderr)
        raise
    trainer.logger.finish()
    if run is not None:
        run.close()


def facts_of_session(overrides: list[str], precision: torch.dtype, processes: Processes) -> dict[str, Any]:
    """What a result should say of the process that trained."""
    return {
        "command": " ".join(["python", "train.py", *overrides]),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(processes.device, processes.world_size),
        "precision": str(precision).removeprefix("torch."),
    }


def reopen_run(resume: Path, settings: Mapping[str, Any]) -> RunDirectory | None:
    """Reopen the directory of a run to go on with; None, and a line that says so, if the run is finished."""
    run = RunDirectory.reopen(resume)
    refuse_changes(read_settings(run.path), settings)
    steps_done = run.steps_of_result()
    if steps_done >= settings["budget"]["steps"]:
        print(f"{run.path} is finished, after {steps_done} steps; go on with a longer budget: -r budget.steps=N.")
        run.close()
        return None
    return run


def record_result(trainer: loop.Trainer, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Test the best network once; write the result, log its summary and print it."""
    test = trainer.test()
    if not trainer.processes.is_first:
        return
    metric, run, best = trainer.task.metric, trainer.run, trainer.state.best
    parameters = sum(parameter.numel() for parameter in trainer.task.parameters())
    sessions = run.sessions()
    result = {
        "name": run.path.name,
        "table": settings["table"],
        f"validation_{metric}": best[metric],
        **{f"{name}_{metric}": values[metric] for name, values in test.items()},
        "best_step": best["step"],
        "steps": trainer.state.step,
        "epochs": trainer.state.step / trainer.splits.train.steps_per_epoch,
        "parameters": parameters,
        "seconds": round(sum(session["seconds"] for session in sessions), 1),
        "sessions": len(sessions),
        "seed": settings["seed"],
        **facts,
        "settings": settings,
    }
    run.write_result(result)
    summary = {name: result[name] for name in result if name.endswith(metric)} | {"parameters": parameters}
    trainer.logger.summary(summary)
    print(
        f"{run.path}: "
        + ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in summary.items()
        )
    )


def new_run_path(settings: Mapping[str, Any]) -> Path:
    """Where a new run goes; its name tells what ran, with which seed and since when.

    Raises:
        ValueError: a part of the name that would make it a path.
    """
    parts = [settings["dataset"]["name"], settings["main_net"]["label"], settings["hypernet"]["name"]]
    if nested := [part for part in parts if "/" in part]:
        raise ValueError(f"The name of a run cannot contain {nested[0]!r}; choose a name or label without a slash.")
    return Path(settings["runs"]) / f"{'-'.join(parts)}-s{settings['seed']}-{datetime.now():%Y%m%d-%H%M%S}"


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def launch(config: DictConfig) -> None:
    """Train with the configuration that Hydra composed."""
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    try:
        with one_line_errors("train.py"):
            settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            check_settings(settings)
            resume = settings.pop("resume")
            try:
                train(settings, overrides, None if resume is None else Path(resume))
            except loop.Interrupted as interruption:
                sys.exit(128 + interruption.signal_number)
    except SystemExit as end:
        if HydraConfig.get().mode is RunMode.MULTIRUN and isinstance(end.code, str):
            print(f"{end.code} (of {' '.join(overrides)})", file=sys.stderr)
            raise ValueError("A run of the sweep failed, see above.") from None  # lets Hydra go on with the others
        raise


if __name__ == "__main__":
    with one_line_errors("train.py"):
        sys.argv[1:] = rewrite_resume(sys.argv[1:])
        launch()
