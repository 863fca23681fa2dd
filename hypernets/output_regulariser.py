"""The output regulariser of von Oswald et al. (2020): a hypernetwork keeps generating the weights of earlier tasks.

Shape legend
    K  tasks learned so far
    C  condition size
    P  generated weights, all tensors of the main network together
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypernets.errors import UserError
from hypernets.hyper_dnn import HyperDNN


class OutputRegulariser(nn.Module):
    """How far the weights that a hypernetwork generates for earlier tasks have moved.

        regulariser = OutputRegulariser(network)
        for task in range(10):
            earlier = [embedding.detach() for embedding in embeddings[:task]]
            regulariser.remember(network, earlier)
            for images, labels in batches(task):
                loss = F.cross_entropy(network(images, condition=embeddings[task]), labels)
                loss = loss + beta * regulariser(network, earlier)
                ...

    With h the hypernetwork, Theta its parameters, Theta* what they were before the current task, and c_1 .. c_K the
    conditions of the earlier tasks (Eq. 2, without the lookahead):

        1 / K  sum_k  || h(c_k, Theta*) - h(c_k, Theta) ||^2

    So continual learning needs no data of earlier tasks, only their conditions. Make the embedding of each task a
    parameter of its own: in a table that all tasks share, Adam's momentum would go on moving the earlier rows.

    The h(c_k, Theta*) are a buffer, so a state dictionary holds them and a run resumes exactly in the middle of a task.

    Args:
        network: whose weights will be remembered.

    Attributes:
        remembered: [K, P], empty before the first call of `remember`.
    """

    remembered: Tensor

    def __init__(self, network: HyperDNN) -> None:
        super().__init__()
        if not isinstance(network, HyperDNN):
            raise UserError(f"The network is a {type(network).__name__}; an OutputRegulariser is for a HyperDNN.")
        size = sum(shape.numel() for shape in network.shapes.values())
        like = next(network.parameters(), torch.empty(0))
        dtype = torch.promote_types(like.dtype, torch.float32)  # half precision is too coarse for small distances
        self.register_buffer("remembered", like.new_zeros(0, size, dtype=dtype, requires_grad=False))

    @torch.no_grad()
    def remember(self, network: HyperDNN, conditions: Sequence[Tensor]) -> None:
        """Remember what the conditions of all earlier tasks, each [C], generate now. Call it before each new task."""
        modes = {module: module.training for module in network.hypernetwork.modules()}
        network.hypernetwork.eval()  # without dropout
        try:
            self.remembered = self._generated(network, conditions) if len(conditions) else self.remembered[:0]
        finally:
            for module, mode in modes.items():
                module.training = mode

    def forward(self, network: HyperDNN, conditions: Sequence[Tensor]) -> Tensor:
        """Return the mean over the tasks of the squared distance, a scalar; 0 before the second task.

        The conditions are constants here: those of earlier tasks do not move. Raises UserError for another number of
        conditions than were remembered.
        """
        if len(conditions) != len(self.remembered):
            raise UserError(
                f"{len(conditions)} conditions are given, but {len(self.remembered)} were remembered; call "
                "remember(network, conditions) with the same ones before each new task."
            )
        if not len(conditions):
            return self.remembered.new_zeros(())
        moved = self._generated(network, [condition.detach() for condition in conditions]) - self.remembered
        return moved.square().sum() / len(conditions)

    def _generated(self, network: HyperDNN, conditions: Sequence[Tensor]) -> Tensor:
        shapes = {tuple(condition.shape) for condition in conditions}
        dimensions = len(next(iter(shapes)))
        if (
            len(shapes) > 1
            or not dimensions
            or getattr(network.hypernetwork, "condition_dimensions", dimensions) != dimensions
        ):
            raise UserError(
                f"The conditions have the shapes {sorted(map(list, shapes))}; give a list with one condition for each "
                "task, all of one shape."
            )
        weights = network.weights(torch.stack(list(conditions))).values()
        return torch.cat([weight.to(self.remembered.dtype).flatten(1) for weight in weights], dim=1)  # [K, P]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        saved = state_dict.get(prefix + "remembered")
        if saved is not None:  # of however many tasks
            self.remembered = self.remembered.new_empty(len(saved), self.remembered.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *others)
