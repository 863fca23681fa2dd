"""One network with several sets of weights: all at once by vmap, or one by one where that is faster."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hypernets.errors import UserError
from hypernets.key_value_networks import is_attention

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Weights of a kernel. On a CPU, convolutions with a kernel for each example are faster at once only below this.
SMALL_KERNEL = 300_000
# Numbers that one network reads. On a CPU, networks with PyTorch's attention are faster at once only below the first.
# Those with the attention of diffusers, to every pixel of a latent image, are only below the second.
FEW_NUMBERS = 2**15
FEW_PIXELS = 2**12


def call_at_once(call: Callable[..., Any], weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
    """Return call(weights, *inputs) for each index of the first dimension of all of these, stacked, by `vmap`."""
    device = next(iter(weights.values())).device.type
    outputs: list[Any] = []

    def tensors_of_call(weights: Mapping[str, Tensor], *inputs: Tensor) -> list[Tensor]:
        leaves, structure = tree_flatten(_known(call(weights, *inputs)))
        outputs[:] = leaves, structure
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    with _attention_with_batching_rules(device):
        tensors = iter(vmap(tensors_of_call, randomness="different")(weights, *inputs))
    leaves, structure = outputs
    return tree_unflatten([next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)


def call_one_by_one(call: Callable[..., Any], weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
    """Return the same as `call_at_once`, by a loop."""
    apart = zip(*(weight.unbind() for weight in weights.values()), strict=True)
    outputs = [
        _known(call(dict(zip(weights, each, strict=True)), *own))
        for each, *own in zip(apart, *(each.unbind() for each in inputs), strict=True)
    ]
    return joined(torch.stack, outputs)


def joined(join: Callable[[list[Tensor]], Tensor], outputs: Sequence[Any]) -> Any:
    """Join the tensors of several outputs; what is not a tensor, such as None, is that of the first output."""
    return tree_map(lambda *each: join(each) if isinstance(each[0], Tensor) else each[0], *outputs)


def _known(output: Any) -> Any:
    """Return the output of a network; raise UserError where tensors may hide in it, or numbers made from them."""
    for leaf in tree_flatten(output)[0]:
        if not isinstance(leaf, (Tensor, int, str, type(None))):  # bool is an int
            raise UserError(
                f"The main network returns a {type(leaf).__name__}, which cannot be stacked for several conditions; "
                "return tensors, in tuples, lists or dictionaries if there are several."
            )
    return output


def of_one_example(output: Tensor) -> Tensor:
    """Return the output [1, ...] for a batch of one example without the axis for the batch; refuse other outputs."""
    if not output.dim() or len(output) != 1:
        raise UserError(
            f"For one example, the main network returns a tensor of the shape {list(output.shape)}; per_example needs "
            "outputs whose first dimension is the example."
        )
    return output.squeeze(0)


@contextmanager
def unchanged(inputs: Any) -> Iterator[None]:
    """Raise UserError if tensors among the inputs are changed, since the networks after the first would see that."""
    tensors = [leaf for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor)]
    # Tensors of inference mode do not count their changes.
    before = [tensor.clone() if tensor.is_inference() else tensor._version for tensor in tensors]
    yield
    for tensor, earlier in zip(tensors, before, strict=True):
        if isinstance(earlier, Tensor):
            is_same = torch.allclose(tensor, earlier, rtol=0, atol=0, equal_nan=True)
        else:
            is_same = tensor._version == earlier
        if not is_same:
            raise UserError(
                "The main network changes its input in place, so it cannot have several sets of weights for it; use "
                "operations that do not, such as an activation with inplace=False."
            )


@contextmanager
def buffers_that_stay(network: nn.Module) -> Iterator[None]:
    """Undo that modules replace buffers or keep tensors under `vmap`, which would make the network useless.

    Raises:
        UserError: a module does that.
    """
    before = {module: dict(module._buffers) for module in network.modules()}
    attributes = {module: dict(vars(module)) for module in before}
    replaced, kept = [], []
    try:
        yield
    finally:
        for module, buffers in before.items():
            replaced += [
                f"{name} of {type(module).__name__}" for name in buffers if module._buffers[name] is not buffers[name]
            ]
            module._buffers.update(buffers)
        for module, own in attributes.items():
            of_hooks = {getattr(hook, "name", None) for hook in module._forward_pre_hooks.values()}  # of weight_norm
            for name, value in list(vars(module).items()):
                if not (isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value)):
                    continue
                if name not in of_hooks:
                    kept.append(f"{name} of {type(module).__name__}")
                if name in own:
                    vars(module)[name] = own[name]
                else:
                    del vars(module)[name]
    if kept:
        raise UserError(
            f"The call keeps a tensor, {kept[0]}, so it cannot have several sets of weights at once; return the tensor "
            "instead, or call the network with one condition at a time."
        )
    if replaced:
        raise UserError(
            f"The call replaces a buffer, {replaced[0]}, so it cannot have several sets of weights at once; call "
            "eval() on that module, or call the network with one condition at a time."
        )


def require_batchable(network: nn.Module) -> None:
    """Raise UserError for the first module that cannot have several sets of weights at once."""
    for name, module in network.named_modules():
        what = f"{name or 'The main network'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            way_out = "use group norm" if module.running_mean is None else "call eval() on it, or use group norm"
            raise UserError(
                f"{what} computes its statistics over a batch, which networks of several conditions do not share; "
                f"{way_out}."
            )
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            raise UserError(
                f"{what} has no batching rule in PyTorch, so it cannot have several sets of weights at once; call "
                "the network with one condition at a time."
            )
        if module.training and _has_no_batching_rule_in_training(module):
            raise UserError(
                f"{what} has no batching rule in PyTorch in training mode, so it cannot have several sets of "
                "weights at once; call eval() on it, or call the network with one condition at a time."
            )


def attends_to_much(network: nn.Module, inputs: Iterable[Any]) -> bool:
    """Whether a network has attention, and the tensors among its inputs are many numbers."""
    attentions = [module for module in network.modules() if is_attention(module)]
    if not attentions:
        return False
    of_pytorch = all(isinstance(module, nn.MultiheadAttention) for module in attentions)
    return sum(each.numel() for each in inputs if isinstance(each, Tensor)) >= (
        FEW_NUMBERS if of_pytorch else FEW_PIXELS
    )


def _has_no_batching_rule_in_training(module: nn.Module) -> bool:
    """Whether `vmap` cannot run a module in training mode, because it draws in a way of its own or changes a buffer."""
    keeps_statistics = isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats
    iterates = any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
    return keeps_statistics or iterates or isinstance(module, nn.RReLU)


class _ContiguousInputs(TorchFunctionMode):
    """Give linear layers contiguous inputs, as vmap repeats their weights for every row of any others."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        count = {F.linear: 1, F.multi_head_attention_forward: 3}.get(function, 0)
        # One copy of a tensor that is given several times: attention tells by that whether it is self-attention.
        copies = {id(each): each.contiguous() for each in args[:count]}
        return function(*(copies[id(each)] for each in args[:count]), *args[count:], **(keywords or {}))


@contextmanager
def _attention_with_batching_rules(device: str) -> Iterator[None]:
    """Let attention run in operations that vmap can batch well; the others are slow on a CPU."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext(), _ContiguousInputs():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
