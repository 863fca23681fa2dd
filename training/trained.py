"""A trained network: the best of a run, or one whose weights are in results/weights/.

A file NAME.safetensors there holds the network's state and, as metadata, what evaluates it: the settings of its run,
the digest of the data set and the step. It needs neither the run nor its record.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import without
from models import character_model, handwriting_model
from training import checkpoint
from training.distributed import start_processes
from training.loop import load_state
from training.run import read_facts, read_settings
from training.task import Splits, Task
from training.tasks import build_task
from training.tasks.image_classification import ImageClassification, build_network

WEIGHTS = Path(__file__).resolve().parent.parent / "results" / "weights"


class Trained(NamedTuple):
    """A trained network, and what can be said about it without its data set."""

    settings: dict[str, Any]
    state: dict[str, Tensor]  # of the network
    data: str  # the digest of the data set
    step: int  # after which it was best on validation
    images: tuple | None = None  # (C, H, W) and the number of classes; only in files of weights


def read_trained(run: Path) -> Trained:
    """Read the network of a run that was best on validation; `run` may also be the name of a file of weights."""
    if run.name == str(run) and not run.exists():
        if path_of_weights(run.name).exists():
            return read_weights(run.name)
        names = ", ".join(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))
        raise UserError(
            f"There is neither a run in {run} nor a trained network of that name; give a directory such as "
            f"{Path('runs') / run}, or one of the names {names}."
        )
    facts, settings = read_facts(run), _where_the_data_is(read_settings(run))
    best = checkpoint.load_best(run, facts["id"])
    if best is None:
        raise UserError(f"The run {run} has no best network that is whole; it is written at the first validation.")
    return Trained(settings, best["network"], facts["data"], best["step"])


def load_trained(run: Path, device: str) -> tuple[dict[str, Any], Splits, Task, int]:
    """Return a run's settings, its splits, its task with the network that was best on validation, and that step.

    As in `read_trained`, `run` may be the name of a file of weights.
    """
    trained = read_trained(run)
    if os.environ.get("WORLD_SIZE", "1") != "1":  # each process would evaluate its share of the data
        raise UserError("A trained network is evaluated in one process; start it without torchrun.")
    splits, task = build_task(trained.settings, start_processes(device))
    if splits.digest != trained.data:
        raise UserError(
            f"The data set that was read is not the one that {run} was trained on; set HYPERNETS_DATA to the folder "
            "that holds it."
        )
    load_state(task.network, trained.state)
    return trained.settings, splits, task, trained.step


def load_network(run: Path) -> nn.Module:
    """Return a trained network in evaluation mode on the CPU, without its data set; see `read_trained`.

    Models of characters and of handwriting can be loaded from runs and from weights, image classifiers from weights.
    """
    settings, state, _, _, images = read_trained(run)
    if "code_points" in state:
        vocabulary = "".join(map(chr, state["code_points"].tolist()))
        network = character_model.build(settings["main_net"], settings["hypernet"], vocabulary)
    elif "offset_std" in state:
        scale = (state[name].tolist() for name in ("offset_mean", "offset_std"))
        network = handwriting_model.build(settings["main_net"], settings["hypernet"], *scale)
    elif images is not None:
        network = build_network(settings, *images)
    else:
        raise UserError(
            f"The network of {run}, {settings['main_net']['name']!r}, is neither a model of characters nor of "
            "handwriting; an image classifier must first be published by scripts.publish_weights."
        )
    load_state(network, state)
    return network.eval()


def _where_the_data_is(settings: dict[str, Any]) -> dict[str, Any]:
    """Let HYPERNETS_DATA, if it is set, name the folder with the data: it may lie elsewhere than where it was read."""
    if "root" in settings["dataset"] and "HYPERNETS_DATA" in os.environ:
        settings["dataset"]["root"] = os.environ["HYPERNETS_DATA"]
    return settings


def path_of_weights(name: str) -> Path:
    """The file of weights with that name."""
    return WEIGHTS / f"{name}.safetensors"


def write_weights(run: Path, name: str, replace: bool = False) -> Path:
    """Write the best network of a run to the file of weights `name`, and return its path."""
    if not name.isidentifier():
        raise UserError(f"The name of the weights is {name!r}; it must have only letters, digits and underscores.")
    if path_of_weights(name).exists() and not replace:
        raise UserError(f"{path_of_weights(name)} exists; choose another name, or add --replace.")
    settings, splits, task, step = load_trained(run, "cpu")
    without_places = without(settings, "runs", "run", "resume", "logger")
    without_places["dataset"] = without(settings["dataset"], "root")
    if "root" in settings["dataset"]:
        without_places["dataset"]["root"] = None
    metadata = {"settings": json.dumps(without_places), "data": splits.digest, "step": str(step)}
    if isinstance(task, ImageClassification):
        metadata["images"] = json.dumps([splits.image_shape, splits.num_classes])
    # Copies, because safetensors refuses tensors that share their memory, such as tied embeddings.
    state = {key: tensor.clone().contiguous() for key, tensor in task.network.state_dict().items()}
    path = path_of_weights(name)
    remedy = "make room on the disk, or let it be written"
    with checkpoint.writing(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(path, save(state, metadata), remedy=remedy)
    return path


def read_weights(name: str) -> Trained:
    """Read a file of weights."""
    path = path_of_weights(name)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is not a dictionary
        settings = json.loads(metadata["settings"])
        images = json.loads(metadata["images"]) if "images" in metadata else None
        trained = Trained(settings, state, metadata["data"], int(metadata["step"]), images)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); put back the file of the repository.") from None
    _where_the_data_is(settings)
    return trained
