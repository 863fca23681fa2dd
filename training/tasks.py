"""What a step computes: the loss of a batch, and the metric of a whole split.

A task is a module that holds the main network, so that `DistributedDataParallel` and `torch.compile` wrap the whole
computation of a step, kernel penalty included. The loop knows only what stands here:

    metric                     name of the validation metric; smaller is better
    main_network               the module whose state is saved
    forward(batch, carried)    -> loss (a scalar), carried state for the next step
    evaluate(batches)          -> {"loss": ..., metric: ...} over a whole split
    images()                   -> {name: picture, or page as HTML} to log beside the metrics, if a logger shows them
    compile()                  what `compile=true` does: for images PyTorch's own, of the whole forward pass

The carried state is a tensor, a tuple of tensors, or None: before the first step, and for tasks whose batches are
independent.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import detach_state
from training.kernel_images import kernel_image
from training.text_samples import row_scales_page, shows_row_scales


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

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of (images [B, C, H, W], labels [B]), cross-entropy in nats plus the penalty.

        Image batches are independent: nothing is carried.
        """
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


class CharacterModelling(nn.Module):
    """Cross-entropy on windows of text whose recurrent state goes from each window to the next (sections 4.3, 4.4).

    Gradients do not: the carried state is detached.

    Args:
        main_network: a module with `forward(ids, state)` -> logits, state.
    """

    metric = "bits_per_character"

    def __init__(self, main_network: nn.Module) -> None:
        super().__init__()
        self.main_network = main_network

    def forward(
        self, window: tuple[Tensor, Tensor, bool], carried: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean loss in nats per character, and the state after the window.

        Args:
            window: ids [T, B], the ids that follow them [T, B], and whether the streams begin here, so that the
                carried state is to be dropped (data/text.py).
            carried: the state after the window before.
        """
        inputs, targets, is_first = window
        logits, state = self.main_network(inputs, None if is_first else carried)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), detach_state(state)

    def compile(self) -> None:
        """Compile a time step of the recurrent layer; the whole pass would be unrolled into one graph of all steps."""
        self.main_network.recurrent_layer.compile()

    def images(self) -> dict[str, str]:
        """A text that the main network writes and how its row scales change, as HTML (Figure 4); only a HyperLSTM's."""
        network = self.main_network
        return {"text/row_scales": row_scales_page(network)} if shows_row_scales(network) else {}

    @torch.no_grad()
    def evaluate(
        self,
        windows: Iterable[tuple[Tensor, Tensor, bool]],
        total: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        """Return {"loss": in nats per character, "bits_per_character": the same in bits} over all windows.

        The state is carried from window to window; targets of -100 are not counted. `total` and the mode of the main
        network are as for images.
        """
        was_training = self.training
        self.eval()
        # Loss, characters: on the device until the end, so that no window waits for a transfer.
        sums = torch.zeros(2, dtype=torch.float64, device=next(self.parameters()).device)
        state = None
        for inputs, targets, is_first in windows:
            logits, state = self.main_network(inputs, None if is_first else state)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            sums += torch.stack([loss.double(), (targets >= 0).sum().double()])
        self.train(was_training)
        loss, characters = total(sums).tolist()
        return {"loss": loss / characters, self.metric: loss / characters / math.log(2)}
