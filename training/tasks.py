"""What a step computes: the loss of a batch, and the metric of a whole split.

A task is a module that holds the main network, so that `DistributedDataParallel` and `torch.compile` wrap the whole
computation of a step, kernel penalty included. The loop knows only what stands here:

    metric                     name of the validation metric; smaller is better
    main_network               the module whose state is saved
    forward(batch, carried)    -> loss (a scalar), carried state for the next step
    evaluate(batches)          -> {"loss": ..., metric: ...} over a whole split
    initial_state(batch_size)  -> the carried state of the first step
    images()                   -> {name: picture} to log beside the metrics

The carried state is a tensor, a tuple of tensors, or None for tasks whose batches are independent.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.kernel_images import kernel_image


class ImageClassification(nn.Module):
    """Cross-entropy on images, with the paper's L2 penalty on the kernels (A.3.2).

    The penalty is kernel_decay / 2 times the squared norm of the convolution kernels *as the main network uses them*:
    what the kernel source returned, learned or generated, and the stem's. Its gradient on a learned kernel is what
    an optimizer's weight decay would add; on a generated kernel it goes on to the embeddings and the generator, which
    are not themselves penalised.

    Args:
        main_network: a module with a `kernel_source`, a `stem` and `forward(images, kernels)` -> logits.
        kernel_decay: factor of the penalty.
    """

    metric = "error"

    def __init__(self, main_network: nn.Module, kernel_decay: float) -> None:
        super().__init__()
        self.main_network = main_network
        self.kernel_decay = kernel_decay

    def initial_state(self, batch_size: int) -> None:
        """Image batches are independent: nothing is carried."""
        return None

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]), cross-entropy in nats plus the penalty."""
        images, labels = batch
        kernels = self.main_network.kernel_source()
        loss = F.cross_entropy(self.main_network(images, kernels), labels)
        if self.kernel_decay:
            squared_norm = sum(kernel.square().sum() for kernel in [self.main_network.stem.weight, *kernels])
            loss = loss + 0.5 * self.kernel_decay * squared_norm
        return loss, carried

    def images(self) -> dict[str, np.ndarray]:
        """The first, the middle and the last kernel of the source as pictures, uint8 [H, W, 3] (Figures 2, 12, 13)."""
        with torch.no_grad():
            kernels = self.main_network.kernel_source()
        chosen = sorted({0, len(kernels) // 2, len(kernels) - 1})
        return {f"kernels/{index}": kernel_image(kernels[index]) for index in chosen}

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return {"loss": mean cross-entropy in nats, "error": error in percent} over all batches.

        `total` adds the sums of all processes; by default there is one. The main network is in evaluation mode
        during the pass and returns to the mode it was in.
        """
        was_training = self.training
        self.eval()
        # Loss, errors, examples: on the device until the end, so that no batch waits for a transfer.
        sums = torch.zeros(3, dtype=torch.float64, device=next(self.parameters()).device)
        for images, labels in batches:
            logits = self.main_network(images).float()
            loss = F.cross_entropy(logits, labels, reduction="sum").double()
            errors = (logits.argmax(dim=1) != labels).sum().double()
            sums += torch.stack([loss, errors, torch.full_like(loss, len(labels))])
        self.train(was_training)
        loss, errors, examples = total(sums).tolist()
        return {"loss": loss / examples, self.metric: 100 * errors / examples}
