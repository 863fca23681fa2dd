"""Whether a run compiles its network."""

import os
import shutil

import torch

from hypernets import UserError

PAYS_FROM = 2000  # steps: compiling takes about half a minute and saves a seventh of a Wide ResNet's step, or more


def resolve_compile(setting: bool | str, steps: int, device: torch.device) -> bool:
    """Whether to compile: for "auto", in runs on a CPU that are long enough for it to pay, if there is a compiler.

    It depends on the steps of the whole run, so that a run that is resumed goes on as it began. What compiling saves on
    a GPU is not measured, so there it has to be asked for.
    """
    if not isinstance(setting, bool) and setting != "auto":
        raise UserError(f"compile is {setting!r}; it must be auto, true or false.")
    if setting == "auto":
        return device.type == "cpu" and steps >= PAYS_FROM and shutil.which(os.environ.get("CXX", "g++")) is not None
    return setting
