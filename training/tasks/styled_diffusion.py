"""Diffusion of digits of a class, and the adaptation of a trained one to another style.

Shape legend
    B  images in a batch
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_images
from data.images import ImageSplits
from data.upload import upload
from hypernets import KeyValueNetworks, UserError
from hypernets.errors import call_with_settings, without
from models import denoiser
from models.mlp import MLP
from training import checkpoint
from training.distributed import Processes
from training.run import read_facts
from training.task import Metric
from training.tasks.image_drawing import side_by_side

SAMPLES = 200  # whose classes are read
SAMPLING_STEPS = 25
CLASSIFIER_STEPS = 300


def signal_and_noise(time: Tensor) -> tuple[Tensor, Tensor]:
    """How much there is of image and noise at times [B], each [B, 1, 1, 1] (after Nichol and Dhariwal 2021)."""
    angle = (0.02 + 0.96 * time) * (math.pi / 2)
    return angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)


class StyledDiffusion(nn.Module):
    """Mean squared error of the noise that a denoiser predicts (Ho et al. 2020); the metric is the same."""

    metric = Metric("noise_error", "error of the noise", digits=4)

    def __init__(self, network: nn.Module, splits: ImageSplits) -> None:
        super().__init__()
        self.network = network
        self._splits = splits
        self._classifier: nn.Module | None = None
        self._drawn: Tensor | None = None

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]) at random times with random noise."""
        images, labels = batch
        return self._error(images, labels, torch.rand(len(images)), torch.randn(images.shape)).mean(), carried

    def _error(self, images: Tensor, labels: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        time, noise = upload(time, images.device), upload(noise, images.device)
        signal, strength = signal_and_noise(time)
        predicted = self.network(signal * images + strength * noise, time, labels)
        return (predicted.float() - noise).square().flatten(1).mean(dim=1)

    @torch.no_grad()
    def sample(self, labels: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Draw images of the classes [B] by deterministic sampling (Song et al. 2021), always from the same noise."""
        x = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(0)).to(labels.device)
        times = torch.linspace(1, 0, SAMPLING_STEPS + 1, device=labels.device)
        for now, later in zip(times, times[1:], strict=False):
            noise = self.network(x, now.expand(len(x)), labels).float()
            signal, strength = signal_and_noise(now[None])
            image = ((x - strength * noise) / signal).clamp(-3, 3)
            signal, strength = signal_and_noise(later[None])
            x = signal * image + strength * noise
        return x

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the error of the noise, at the same times and with the same noise in every evaluation.

        misread_samples     percent of samples of which a classifier that knows the style reads another class
        ..._frozen          the same without the key-value networks: what the frozen model has by itself
        """
        was_training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(0)
        styled = isinstance(self.network, KeyValueNetworks)
        sums = torch.zeros(3, dtype=torch.float64)
        try:
            for images, labels in batches:
                place = torch.rand(len(images), generator=generator), torch.randn(images.shape, generator=generator)
                error = self._error(images, labels, *place).sum()
                frozen = torch.zeros_like(error)
                if styled:
                    with self._frozen_model():
                        frozen = self._error(images, labels, *place).sum()
                sums += torch.stack([error, frozen, error.new_tensor(len(labels))]).double().cpu()
            asked = torch.arange(SAMPLES, device=images.device) % self._splits.num_classes
            drawn = self.sample(asked, self._splits.image_shape)
            misread = self._misread(drawn, asked)
            if styled:
                with self._frozen_model():
                    misread_frozen = self._misread(self.sample(asked, self._splits.image_shape), asked)
            self._drawn = drawn[:20, 0].flatten(1).cpu()
        finally:
            self.train(was_training)
        error, frozen, count = total(sums).tolist()
        values = {"loss": error / count, "noise_error": error / count, "misread_samples": misread}
        if styled:
            values |= {"noise_error_frozen": frozen / count, "misread_samples_frozen": misread_frozen}
        return values

    @contextmanager
    def _frozen_model(self) -> Iterator[None]:
        strength, self.network.strength = self.network.strength, 0.0
        try:
            yield
        finally:
            self.network.strength = strength

    def _misread(self, images: Tensor, asked: Tensor) -> float:
        """Percent of images not of the class asked for, as read by an MLP trained on real ones of this style."""
        # In float32: within autocast, all steps would go on from the first weights, of which it keeps a copy in bf16.
        with torch.autocast(images.device.type, enabled=False):
            read = self._trained_classifier(images.device)(images.float()).argmax(dim=1)
        return 100 * (read != asked).float().mean().item()

    def _trained_classifier(self, device: torch.device) -> nn.Module:
        if self._classifier is None:
            with torch.random.fork_rng([]), torch.enable_grad():
                torch.manual_seed(0)
                classifier = MLP(math.prod(self._splits.image_shape), [100], self._splits.num_classes).to(device)
                optimizer = torch.optim.Adam(classifier.parameters(), lr=0.003)
                for step in range(CLASSIFIER_STEPS):
                    x, labels = self._splits.train.batch(step)
                    optimizer.zero_grad()
                    F.cross_entropy(classifier(x.contiguous()), labels).backward()
                    optimizer.step()
            self.__dict__["_classifier"] = classifier  # not a module of this one: it is no part of the task
        return self._classifier

    def pictures(self) -> dict[str, np.ndarray]:
        """Two samples of each class."""
        if self._drawn is None:
            return {}
        return {"samples": side_by_side(self._drawn.split(10), self._splits.image_shape[1])}


def load_base(run: str, network: nn.Module) -> str:
    """Load the best network of an earlier run; return a digest of its weights."""
    if not Path(run).exists():
        raise UserError(
            f"There is no trained model in {run}; train one with python train.py experiment=taxonomy/style_base "
            "run=taxonomy-style_base-s0, or set dataset.path to its run."
        )
    best = checkpoint.load_best(Path(run), read_facts(Path(run))["id"])
    if best is None:
        raise UserError(f"{run} has no best network; set dataset.path to a finished run of this task.")
    try:
        network.load_state_dict(best["network"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The network of {run} is not the one of main_net: {reason}; choose another run.") from None
    weights = nn.utils.parameters_to_vector(network.parameters())
    return hashlib.sha256(weights.detach().cpu().numpy().tobytes()).hexdigest()


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits, StyledDiffusion]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    dataset = without(settings["dataset"], "task", "name", "path")
    splits = build_images(dataset, seed=settings["seed"], **vars(processes))
    main_net, hypernet, base = settings["main_net"], settings["hypernet"], settings["dataset"].get("path")
    if main_net["kind"] != "denoiser" or hypernet["kind"] not in denoiser.ADAPTERS:
        raise UserError(
            "Diffusion is of main_net=denoiser with hypernet=none, hypernet=key_value or hypernet=low_rank, not "
            f"{main_net['kind']} with {hypernet['kind']}."
        )
    if base is None and hypernet["kind"] != "none":
        raise UserError(
            f"dataset.path is null, but hypernet={hypernet['kind']} adapts a trained model; set it to the run of one."
        )
    torch.manual_seed(settings["seed"])
    own = without(main_net, "kind", "name")
    network = call_with_settings(denoiser.build, "main_net", own, splits.image_shape, splits.num_classes)
    if base is not None:
        splits = dataclasses.replace(splits, digest=splits.digest + load_base(base, network))
    own = without(hypernet, "kind", "name")
    network = call_with_settings(denoiser.ADAPTERS[hypernet["kind"]], "hypernet", own, network)
    return splits, StyledDiffusion(network, splits)
