"""What a user sees of a mistake: one line on standard error and a non-zero exit status."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Within this context, errors that a user can put right end the program with one line; others keep their traceback.

    Such are ValueError and OSError, whose messages this project words for users, and all errors in composing a
    configuration.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except MissingConfigException as error:
        sys.exit(f"{program}: {_missing_choice(error)}")
    except MissingMandatoryValue as error:
        sys.exit(f"{program}: {error.full_key} is not set; set it with {error.full_key}=VALUE.")
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"{program}: {' '.join(str(error).split())}")


def _missing_choice(error: MissingConfigException) -> str:
    """Name what was chosen and what there is; Hydra's own message adds its search path."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = ", ".join(sorted(error.options or ()))
    return f"There is no {choice!r} in the configuration group {group!r}" + (
        f"; choose one of {options}." if options else "."
    )


# The groups whose `name` says which code runs; that of a data set or a budget is for people.
GROUPS = ("main_net", "hypernet", "optimizer", "schedule", "logger")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Compare the composed settings with those that the chosen configuration files alone lead to.

    To be called within Hydra's main.

    Raises:
        ValueError: naming a key that the files do not have, one of theirs that was deleted, one whose value is of
            another kind than theirs, or a name that does not belong to the settings beside it.
    """
    choices = HydraConfig.get().runtime.choices
    chosen = [f"{group}={name}" for group, name in choices.items() if name and not group.startswith("hydra/")]
    expected = hydra.compose("train", chosen)
    _compare(settings, expected, "")
    for group in GROUPS:
        name, of_file = settings[group]["name"], expected[group]["name"]
        if name != of_file:
            options = GlobalHydra.instance().config_loader().get_group_options(group)
            raise ValueError(
                f"{group}.name is {name!r}, but the settings beside it are those of {of_file!r}; choose one of "
                f"{', '.join(f'{group}={option}' for option in options)} instead."
            )


def _compare(settings: Mapping[str, Any], expected: Any, prefix: str) -> None:
    for key in expected:
        if key not in settings:
            raise ValueError(f"The setting {prefix}{key} is missing; it cannot be taken away with ~{prefix}{key}.")
    for key, value in settings.items():
        name = prefix + str(key)
        if OmegaConf.is_missing(expected, key):  # `in` would deny that it is there
            continue
        if key not in expected:
            raise ValueError(f"There is no setting {name!r}; the settings there are: {', '.join(expected)}.")
        default = expected[key]
        if isinstance(value, Mapping) and isinstance(default, DictConfig) and default:
            _compare(value, default, name + ".")
        elif not _same_kind(value, default):
            raise ValueError(f"{name} is {value!r}; it must be {_KINDS[type(default)]}, such as {default!r}.")


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    ListConfig: "a list",
    DictConfig: "a mapping",
}


def _same_kind(value: Any, default: Any) -> bool:
    if default is None:
        return True  # checked where it is used
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, ListConfig):
        return isinstance(value, list) and all(_same_kind(item, next(iter(default), None)) for item in value)
    if isinstance(default, DictConfig):
        return isinstance(value, Mapping)
    return type(value) is type(default)
