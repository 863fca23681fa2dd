"""Whether a run compiles its network."""

import os
import shutil

import torch
from torch import nn

PAYS_FROM = 2000  # steps: compiling takes about half a minute and saves a seventh of a Wide ResNet's step, or more


def resolve_compile(setting: bool | str, steps: int, task: nn.Module, device: torch.device) -> bool:
    """Whether to compile: for "auto", in runs on a CPU that are long enough for it to pay, if there is a compiler.

    Only a task that says how to compile it is compiled by itself; a pass whose shapes change, for example, would be
    compiled again and again. The answer depends on the steps of the whole run, so that a run that is resumed goes on as
    it began, unless it is extended past `PAYS_FROM`. What compiling saves on a GPU is not measured, so there it has to
    be asked for.
    """
    if setting != "auto":
        return setting
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    return says_how_to_compile(task) and has_compiler and device.type == "cpu" and steps >= PAYS_FROM


def says_how_to_compile(task: nn.Module) -> bool:
    """Whether a task has a `compile` of its own. Its pass is then the same for all batches of the same shapes."""
    return type(task).compile is not nn.Module.compile
