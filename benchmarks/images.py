"""What the static hypernetwork costs beside the plain network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import alternate
from data.build import build_images
from data.images import ImageBatches
from hypernets import HyperDNN, StaticHypernetwork, tileable_kernels
from models.wide_resnet import WideResNet
from training.optimizer import build_optimizer
from training.precision import autocast, set_precision
from training.tasks.image_classification import ImageClassification

BATCH_SIZE = 128
SAMPLE = {"kind": "arrays", "path": "cifar10_sample.npz", "batch_size": BATCH_SIZE, "padding": 2, "flip": True}


def measure(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the convolutional networks, in the precision that is default on the device."""
    batches = sample_batches(device)
    return {
        "precision": str(set_precision("auto", device)).removeprefix("torch."),
        "wide_resnets": {
            f"WRN-40-{width}": hyper_against_plain(width, batches, 3 * rounds, device) for width in (1, 2)
        },
        "settings": precision_and_compilation(batches, rounds, device),
    }


def sample_batches(device: torch.device) -> ImageBatches:
    """The training split of the bundled sample."""
    return build_images(SAMPLE, seed=0, device=device, rank=0, world_size=1).train


def build_task(name: str, width: int, device: torch.device) -> ImageClassification:
    """The task of training WRN-40-width, "plain" or "hyper"."""
    torch.manual_seed(0)
    network: nn.Module = WideResNet(width=width)
    if name == "hyper":
        network = HyperDNN(network, StaticHypernetwork, choose=tileable_kernels(3))
    return ImageClassification(network, kernel_decay=5e-4).to(device, memory_format=torch.channels_last)


def training_step(task: nn.Module, batches: ImageBatches, precision: torch.dtype) -> Callable[[], None]:
    """A step as the loop does it: forward, penalty, backward, SGD with momentum."""
    optimizer = build_optimizer(task, {"kind": "sgd", "momentum": 0.9})
    batch = batches.batch(0)

    def step() -> None:
        with autocast(precision, batch[0].device):
            loss, _ = task(batch, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def inference_pass(task: nn.Module, batches: ImageBatches, precision: torch.dtype) -> Callable[[], None]:
    """Logits of one batch, without gradients."""
    images, _ = batches.batch(0)
    task.eval()

    def infer() -> None:
        with torch.no_grad(), autocast(precision, images.device):
            task.network(images)

    return infer


def hyper_against_plain(width: int, batches: ImageBatches, rounds: int, device: torch.device) -> dict[str, Any]:
    """Training steps and inference of WRN-40-width, plain and with its hypernetwork taking turns."""
    measured, precision = {}, set_precision("auto", device)
    for what, make in (("training", training_step), ("inference", inference_pass)):
        works = {name: make(build_task(name, width, device), batches, precision) for name in ("plain", "hyper")}
        measured[what] = alternate(works, rounds, device)
    return measured


def precision_and_compilation(batches: ImageBatches, rounds: int, device: torch.device) -> dict[str, Any]:
    """Training steps of Hyper WRN-40-1 with each setting changed from bf16, not compiled."""
    full = "precision=tf32" if device.type == "cuda" else "precision=float32"  # as `measure` has set it on a GPU
    tasks = {name: build_task("hyper", 1, device) for name in ("bf16, not compiled", full, "compile=true")}
    tasks["compile=true"].compile()
    steps = {
        name: training_step(task, batches, torch.float32 if name == full else torch.bfloat16)
        for name, task in tasks.items()
    }
    return alternate(steps, rounds, device)


def operations(widths: Sequence[int], device: torch.device) -> dict[str, dict[str, float]]:
    """Floating-point operations per image of a training step of WRN-40-width, forward and backward; counted."""
    images = torch.zeros(BATCH_SIZE, 3, 32, 32, device=device)
    labels = torch.zeros(BATCH_SIZE, dtype=torch.int64, device=device)
    counted: dict[str, dict[str, float]] = {}
    for width in widths:
        for name in ("plain", "hyper"):
            with FlopCounterMode(display=False) as counter:
                build_task(name, width, device)((images, labels), None)[0].backward()
            counted.setdefault(f"WRN-40-{width}", {})[name] = counter.get_total_flops() / BATCH_SIZE
    return counted
