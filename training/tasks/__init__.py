"""The tasks: one file each, which builds its data and its network from the settings of a run.

A data set's configuration names its task. To add a task, write its file and add its line below; see docs/extending.md.
"""

from collections.abc import Mapping
from typing import Any

from hypernets import UserError
from training.distributed import Processes
from training.task import Splits, Task
from training.tasks import (
    any_architecture,
    character_modelling,
    continual_classification,
    continual_regression,
    few_shot_regression,
    handwriting,
    image_classification,
    image_drawing,
    styled_diffusion,
    translation,
    uncertain_classification,
    uncertain_regression,
)

# build(settings, processes) -> splits on the device, task
TASKS = {
    "image_classification": image_classification.build,
    "character_modelling": character_modelling.build,
    "handwriting": handwriting.build,
    "translation": translation.build,
    "any_architecture": any_architecture.build,
    "continual_classification": continual_classification.build,
    "continual_regression": continual_regression.build,
    "few_shot_regression": few_shot_regression.build,
    "image_drawing": image_drawing.build,
    "styled_diffusion": styled_diffusion.build,
    "uncertain_classification": uncertain_classification.build,
    "uncertain_regression": uncertain_regression.build,
}


def build_task(settings: Mapping[str, Any], processes: Processes) -> tuple[Splits, Task]:
    """Build the splits and the task that the settings of a run describe, on the device."""
    name = settings["dataset"].get("task")
    if name not in TASKS:
        raise UserError(f"dataset.task is {name!r}; it must be one of {', '.join(TASKS)}.")
    splits, task = TASKS[name](settings, processes)
    if not isinstance(task, Task):
        raise TypeError(f"The task {name} lacks a part of training.task.Task.")
    return splits, task.to(processes.device)
