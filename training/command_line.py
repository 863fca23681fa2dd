"""Between a user's command line and a run: `train.py -r [RUN]`, and mistakes as one line."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from hypernets import UserError
from training.run import most_recent_run, read_facts, read_settings


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Within this context, a user's mistake ends the program with one line; other errors keep their traceback.

    A mistake is a `UserError`, or one of Hydra's errors in composing a configuration.
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
    except OverrideParseException as error:
        sys.exit(
            f"{program}: {error.override!r} is no setting; write KEY=VALUE, with quotes around special characters."
        )
    except InterpolationKeyError as error:
        sys.exit(
            f"{program}: {error.full_key} cannot be found from the other settings; set {error.full_key}=VALUE, or make "
            f"another choice for {error.full_key.partition('.')[0]}."
        )
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        message = " ".join(str(error).split())
        # Hydra's hint would be refused when followed: a setting that nothing reads is an error here.
        message, hint, _ = message.partition(" To append to your config")
        if hint:
            message = message.replace("Could not override", "There is no setting").removesuffix(".")
            command = "the same command" if program == "train.py" else "python train.py"
            message += f"; {command} with --cfg job in place of this setting prints all there are."
        sys.exit(f"{program}: {message}")


def _missing_choice(error: MissingConfigException) -> str:
    """Name the choice and the options; Hydra's own message adds its search path."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or ())
    if group.startswith("experiment"):  # Hydra lists only the files beside the missing one
        folder = Path(__file__).resolve().parent.parent / "configs" / "experiment"
        options = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
        choice, group = str(error.missing_cfg_file).removeprefix("experiment/"), "experiment"
    listed = ", ".join(sorted(options))
    return f"There is no {choice!r} in the configuration group {group!r}{f'; choose one of {listed}' * bool(listed)}."


def rewrite_resume(arguments: list[str]) -> list[str]:
    """Turn `-r [RUN]` or `--resume [RUN]` into RUN's overrides, those given now, and `resume=RUN`.

    RUN's overrides are those of its first launch, then those given when it was resumed before. Without RUN, it is the
    run that was started or resumed last. A later override replaces an earlier one of the same key. Arguments without -r
    are returned as they are. (Hydra has its own flag -r, --run, and would mistake ours for it.)
    """
    arguments = [
        part for each in arguments for part in (each.split("=", 1) if each.startswith("--resume=") else [each])
    ]
    flags = [index for index, argument in enumerate(arguments) if argument in ("-r", "--resume")]
    if not flags:
        return arguments
    if len(flags) > 1:
        raise UserError("-r was given more than once; resume one run at a time.")
    if any(argument in ("-m", "--multirun") for argument in arguments):
        raise UserError("-r resumes one run and cannot be combined with the sweep -m.")
    before, after = arguments[: flags[0]], arguments[flags[0] + 1 :]
    if after and not after[0].startswith(("-", "+", "~")) and "=" not in after[0]:
        run, after = Path(after[0]).expanduser(), after[1:]
    else:
        run = most_recent_run(place_of_runs(arguments))
    facts, settings = read_facts(run), read_settings(run)
    given = [*before, *after]
    overrides = [each for each in given if not each.startswith("-") and ("=" in each or each[:1] in ("+", "~"))]
    flags = [each for each in given if each not in overrides]  # such as --cfg job; argparse wants them in one place
    merged = _replaced({}, facts["overrides"])
    merged = _replaced(merged, facts["resumed_with"])
    merged = _replaced(merged, overrides, _choices(settings))
    return [*merged.values(), f"resume={_quoted(str(run))}", *flags]


def _replaced(
    earlier: Mapping[str, str], overrides: Sequence[str], defaults: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Overrides by their keys. Where another schedule or logger is chosen, the keys of the one before go."""
    later = {key_of_override(each): each for each in overrides}
    chosen = {**(defaults or {}), **earlier}
    groups = [key for key in ("schedule", "logger") if key in later and chosen.get(key) != later[key]]
    for key, each in later.items():
        if not each.startswith(("+", "~")):
            later[key] = _pluses(earlier.get(key, "")) + each  # as Hydra needed it before
    return {key: each for key, each in earlier.items() if key.partition(".")[0] not in groups} | later


def _choices(settings: Mapping[str, Any]) -> dict[str, str]:
    """The overrides that choose the schedule and the logger of a run."""
    logger = settings.get("logger", {})
    name = f"wandb_{logger.get('mode')}" if logger.get("kind") == "wandb" else "none"
    return {"schedule": f"schedule={settings.get('schedule', {}).get('kind')}", "logger": f"logger={name}"}


def require_slurm(arguments: Sequence[str]) -> None:
    """Raise UserError where jobs are to be sent to a Slurm cluster that is not there."""
    if "hydra/launcher=slurm" in arguments and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm needs a Slurm cluster, and there is no srun on this machine; start it on a node of a "
            "cluster, or leave it out to run the sweep here."
        )


def resolve_printed(arguments: list[str]) -> list[str]:
    """Make `--cfg job` print values, not interpolations."""
    is_printed = any(pair in (("--cfg", "job"), ("-c", "job")) for pair in zip(arguments, arguments[1:], strict=False))
    return [*arguments, "--resolve"] if is_printed and "--resolve" not in arguments else arguments


def with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run with the data set's paths absolute, so that they are valid from any folder.

    A dataset.path that does not exist stays as it is: it may be relative to the data root.
    """
    paths = {}
    for key in ("path", "root"):
        if isinstance(given := settings["dataset"].get(key), str):
            path = Path(given).expanduser().absolute()
            paths[key] = str(path) if key == "root" or path.exists() else given
    return {**settings, "dataset": {**settings["dataset"], **paths}}


def overrides_to_keep(overrides: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The overrides that a later resume repeats: without `resume`, and with the absolute paths of the settings.

    The folder of the runs is among them in any case, since a path in a configuration file may be within it.
    """
    paths = {f"dataset.{key}": settings["dataset"].get(key) for key in ("path", "root")}
    paths["runs"] = str(Path(settings["runs"]).expanduser().absolute())
    kept = []
    for override in overrides:
        key = key_of_override(override)
        if paths.get(key) is not None:
            override = f"{_pluses(override)}{key}={_quoted(str(paths[key]))}"
        if key != "resume":
            kept.append(override)
    if "runs" not in map(key_of_override, overrides):
        kept.append(f"runs={_quoted(paths['runs'])}")
    return kept


def place_of_runs(arguments: Sequence[str]) -> Path:
    """The folder in which a command line creates its run directories."""
    places = [argument for argument in arguments if argument.startswith("runs=")] or ["runs=runs"]
    return Path(str(OverridesParser.create().parse_override(places[-1]).value())).expanduser()


def _pluses(override: str) -> str:
    """How an override begins: nothing, "+" for a key that no configuration file has, or "++" for either."""
    return override[: len(override) - len(override.lstrip("+"))]


def key_of_override(override: str) -> str:
    """The key or the group that an override of Hydra's sets."""
    return override.split("=", 1)[0].lstrip("+~")


def _quoted(text: str) -> str:
    """A string in the grammar of Hydra's overrides."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
