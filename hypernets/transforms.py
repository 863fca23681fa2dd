"""Whether PyTorch looks into a computation while it runs, so that it has to run in the plain way."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of `torch.func`, forward-mode differentiation or `torch.export` is under way."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0 or torch.compiler.is_exporting()


def are_batched(*gradients: Tensor) -> bool:
    """Whether these are several gradients at once, by `torch.autograd.grad(..., is_grads_batched=True)`."""
    return any(torch._C._functorch.is_legacy_batchedtensor(gradient) for gradient in gradients)
