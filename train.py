"""Train a network of the HyperNetworks paper, or one of your own.

    python train.py                                              # the default: bundled data, two minutes
    python train.py experiment=table2/hyper_wrn_40_2             # a row of Table 2, the paper's protocol
    python train.py experiment=table2/hyper_wrn_40_1_30_epochs   # one scaled down to an hour or so on two cores
    python train.py experiment=shakespeare                       # a HyperLSTM, on bundled text
    python train.py main_net=torchvision main_net.model=resnet18 hypernet=static
    python train.py run=NAME ...                                 # a run with a name: the same command resumes it
    python train.py -r [RUN] [OVERRIDES]                         # resume RUN, or the most recent run
    python train.py -m hypernet=none,static seed=0,1,2           # a sweep
    torchrun --nproc_per_node=2 train.py                         # data parallel, same global batch

Everything that a run leaves behind is in runs/NAME/, see training/run.py.
"""

import shlex
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hypernets import UserError
from training import command_line, provenance
from training.compilation import resolve_compile
from training.distributed import start_processes
from training.logger import NoLogger, check_access, check_logger, is_behind, open_logger
from training.loop import Budget, Trainer
from training.memory import keep_freed_memory
from training.optimizer import build_optimizer
from training.precision import set_precision
from training.run import Run, path_of_run, read_result, read_rows, read_sessions
from training.schedule import build_schedule
from training.settings import INTERVALS, check_settings
from training.signals import Interrupted
from training.task import count_trained, generated_weights
from training.tasks import build_task

PLACES = ("runs", "resume", "dataset.root")  # on the user's machine; they stay out of the command in a record


def train(settings: dict[str, Any], overrides: list[str], experiment: str | None) -> None:
    """Train one run to its result, from its settings and the overrides that led to them."""
    check_settings(settings)
    check_logger(settings)
    settings = command_line.with_absolute_paths(settings)
    keep_freed_memory()
    processes = start_processes(settings["device"])
    precision = set_precision(settings["precision"], processes.device)
    learning_rate = build_schedule(settings["schedule"], settings["steps"])

    run = None
    if processes.is_first:
        run = Run(path_of_run(settings), settings, command_line.overrides_to_keep(overrides, settings))
    if processes.broadcast(run is not None and run.steps_done >= settings["steps"]):
        if run is not None:
            complete_log(run, settings)
            print(f"{run.path} is finished, after {run.steps_done} steps; train longer with -r {run.path} steps=N.")
            run.close()
        return
    shown = (each for each in overrides if command_line.key_of_override(each) not in PLACES)
    is_tf32 = settings["precision"] == "tf32" and processes.device.type == "cuda"
    facts = {
        "experiment": experiment,
        "command": " ".join(["python", "train.py", *shown]),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(processes.device, processes.world_size),
        "precision": "tf32" if is_tf32 else str(precision).removeprefix("torch."),
    }
    try:
        if run is not None:
            check_access(settings, run.path)
        splits, task = build_task(settings, processes)
        facts["compiled"] = resolve_compile(settings["compile"], settings["steps"], task, processes.device)
        trainer = Trainer(
            task=task,
            splits=splits,
            optimizer=build_optimizer(task, settings["optimizer"]),
            learning_rate=learning_rate,
            gradient_clip=settings["gradient_clip"],
            budget=Budget(**{key: settings[key] for key in INTERVALS}),
            seed=settings["seed"],
            precision=precision,
            compile_task=facts["compiled"],
            sync_batch_norm=settings["sync_batch_norm"],
            processes=processes,
            directory=run,
            session=facts,
            open_logger=lambda: NoLogger() if run is None else open_logger(settings, run.path, read_rows(run.path)),
        )
        trainer.begin()
        try:
            record_result(trainer, trainer.run(), settings, facts)
        except BaseException:
            trainer.logger.finish(exit_code=1)
            raise
        trainer.logger.finish()
    except Exception as error:
        if run is not None and not run.is_new and not isinstance(error, UserError):
            what = f"Stopped at step {trainer.state.step} by {error}" if isinstance(error, Interrupted) else "Failed"
            print(f"{what}; resume with: python train.py -r {shlex.quote(str(run.path))}", file=sys.stderr)
        raise
    finally:
        if run is not None:
            run.close()


def complete_log(run: Run, settings: dict[str, Any]) -> None:
    """Log a finished run again where its log was deleted, or was not yet whole when the process ended."""
    rows = read_rows(run.path)
    if is_behind(settings, run.path, rows[-1]["step"]):
        check_access(settings, run.path)
        logger, result = open_logger(settings, run.path, rows), read_result(run.path)
        logger.summary({key: result[key] for key in result if key.startswith(("validation_", "test_", "parameters"))})
        logger.finish()


def record_result(trainer: Trainer, test: dict[str, float], settings: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the result of a finished run, log its summary and print it."""
    if not trainer.processes.is_first:
        return
    metric, run, best = trainer.task.metric, trainer.directory, trainer.state.best
    sessions = read_sessions(run.path)
    summary = {
        f"validation_{metric.key}": best[metric.key],
        **{f"test_{key}": value for key, value in test.items() if key != "loss"},
        "parameters": count_trained(trainer.task),
    }
    result = {
        "name": run.path.name,
        "table": settings["table"],
        "row": settings["row"],
        **summary,
        "generated": generated_weights(trainer.task),
        "test": test,
        "best_step": best["step"],
        "steps": trainer.state.step,
        "epochs": trainer.state.step / trainer.splits.train.steps_per_epoch,
        "seconds": round(sum(session["seconds"] for session in sessions), 1),
        "sessions": len(sessions),
        "seed": settings["seed"],
        "data": trainer.splits.digest,
        **facts,
        "settings": settings,
    }
    run.write_result(result)
    trainer.logger.summary(summary)
    for split in ("validation", "test"):
        print(f"{split} {metric.title}: {result[f'{split}_{metric.key}']:.{metric.digits}f}{metric.unit}")
    print(f"{summary['parameters']:,} parameters; the run is in {run.path}")


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def launch(config: DictConfig) -> None:
    """Train with the configuration that Hydra composed."""
    overrides = list(HydraConfig.get().overrides.task)
    try:
        with command_line.one_line_errors("train.py"):
            settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            train(settings, overrides, HydraConfig.get().runtime.choices.get("experiment"))
    except Interrupted as interruption:
        if interruption.handler is not None:
            interruption.handler(interruption.signal_number, None)  # under submitit: back into the queue
        sys.exit(128 + interruption.signal_number)
    except SystemExit as end:
        if HydraConfig.get().mode is RunMode.MULTIRUN and isinstance(end.code, str):
            print(f"{end.code} (of {' '.join(overrides)})", file=sys.stderr)
            raise UserError("A run of the sweep failed, see above.") from None  # lets Hydra go on with the others
        raise


if __name__ == "__main__":
    with command_line.one_line_errors("train.py"):
        command_line.require_slurm(sys.argv)
        sys.argv[1:] = command_line.resolve_printed(command_line.rewrite_resume(sys.argv[1:]))
        launch()
