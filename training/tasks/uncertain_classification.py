"""Classification that says how sure it is, among images of another data set that it should be less sure of.

Shape legend
    S  samples: networks that are asked
    B  images in a batch
    K  classes
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_with_unknown
from data.images import ImageSplits
from hypernets.errors import require_number, require_whole, without
from models.sampled_networks import NoiseConditioned, build_sampled
from training.distributed import Processes
from training.task import Metric
from training.tasks.image_classification import main_network_builder

BINS = 15  # of the calibration error


class UncertainClassification(nn.Module):
    """Cross-entropy of each sampled network, plus the posterior term; their mean probabilities are the prediction."""

    metric = Metric("error", "error", digits=2, unit=" %")

    def __init__(self, network: nn.Module, samples: int, posterior: float, images: int) -> None:
        super().__init__()
        require_whole("dataset.samples", samples, least=2 if isinstance(network, NoiseConditioned) else 1)
        require_number("dataset.posterior", posterior, least=0)
        self.network = network
        self.samples, self.posterior, self.images = samples, posterior, images

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]), in nats per image."""
        images, labels = batch
        logits, divergence = self.network(images, self.samples)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
        return loss + self.posterior * divergence / self.images, carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor, bool]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return what ten samples predict together.

        loss, error             of the known images, in nats and in percent
        calibration_error       percent: |confidence - accuracy| over fifteen equal bins of confidence (Guo et al. 2017)
        auroc                   percent: how often an unknown image has a larger predictive entropy than a known one
        error_mean_condition    error of the network for noise 0
        weight_spread           of the weights over the noise
        """
        was_training = self.training
        self.eval()
        loss = wrong_at_zero = 0.0
        confidences, hits, entropies = [], [], {True: [], False: []}
        try:
            for images, labels, is_known in batches:
                p = self.network.sampled(images, samples=10).float().softmax(dim=2).mean(dim=0)  # [B, K]
                entropies[is_known].append(-torch.special.xlogy(p, p).sum(dim=1))
                if not is_known:
                    continue
                loss += F.nll_loss(p.clamp_min(1e-12).log(), labels, reduction="sum").item()
                confidence, predicted = p.max(dim=1)
                confidences.append(confidence)
                hits.append((predicted == labels).float())
                if isinstance(self.network, NoiseConditioned):
                    at_zero = self.network.of_mean_noise(images)[0].argmax(dim=1)
                    wrong_at_zero += (at_zero != labels).sum().item()
        finally:
            self.train(was_training)
        confidence, hit = torch.cat(confidences), torch.cat(hits)
        values = {
            "loss": loss / len(hit),
            "error": 100 * (1 - hit.mean().item()),
            "calibration_error": 100 * calibration_error(confidence, hit),
            "auroc": 100 * auroc(torch.cat(entropies[True]), torch.cat(entropies[False])),
        }
        if isinstance(self.network, NoiseConditioned):
            values["error_mean_condition"] = 100 * wrong_at_zero / len(hit)
            values["weight_spread"] = self.network.weight_spread()
        return values

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def calibration_error(confidence: Tensor, hit: Tensor) -> float:
    """The expected calibration error of confidences [N] and hits [N], 0 or 1."""
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS, device=confidence.device).index_add_(0, bins, confidence - hit)
    return (gaps.abs().sum() / len(hit)).item()


def auroc(low: Tensor, high: Tensor) -> float:
    """How often a value of `high` is larger than one of `low`; equal ones count half."""
    values, order = torch.cat([low, high]).sort()
    _, group, counts = values.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    ranks = (last - (counts - 1) / 2)[group]  # from 1; equal values share their mean rank
    of_high = torch.empty_like(ranks).scatter_(0, order, ranks)[len(low) :].double().sum().item()
    return (of_high - len(high) * (len(high) + 1) / 2) / (len(low) * len(high))


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[ImageSplits, UncertainClassification]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    left_out = ("task", "name", "samples", "posterior")
    dataset = without(settings["dataset"], *left_out)
    splits = build_with_unknown(dataset, seed=settings["seed"], **vars(processes))
    build_main_network = main_network_builder(settings, splits.image_shape, splits.num_classes)
    torch.manual_seed(settings["seed"])
    network = build_sampled(build_main_network, settings["hypernet"])
    samples, posterior = (settings["dataset"].get(name) for name in ("samples", "posterior"))
    return splits, UncertainClassification(network, samples, posterior, splits.train.num_examples)
