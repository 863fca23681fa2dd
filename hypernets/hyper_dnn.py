"""Any network, with weights that a hypernetwork generates."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from hypernets.errors import UserError, require_number
from hypernets.several_networks import (
    CONVOLUTIONS,
    SMALL_KERNEL,
    attends_to_much,
    buffers_that_stay,
    call_at_once,
    call_one_by_one,
    joined,
    of_one_example,
    require_batchable,
    unchanged,
)
from hypernets.transforms import is_transformed


def every_parameter(name: str, parameter: Tensor) -> bool:
    """Choose all parameters."""
    return True


class HyperDNN(nn.Module):
    """A main network, some or all of whose parameters a hypernetwork generates.

        network = HyperDNN(resnet18(num_classes=10), StaticHypernetwork, choose=tileable_kernels(3))
        logits = network(images)  # trains like any other module

    The main network is a plain module that knows nothing about the hypernetwork. Its chosen parameters are removed. In
    each forward pass the hypernetwork first generates all of them once, and they stay in place for the duration of the
    call. Everything else (other parameters, buffers such as the statistics of batch norm) stays in the main network
    and is learned as usual.

    With a condition, the weights are a function of it. `forward` takes one condition, and all inputs meet the same
    weights. `per_example` takes a condition for each input, and `ensemble` shows the same inputs to the networks of
    several conditions.

    The generated weights are in place only during the call. So the main network cannot be called by itself, and
    gradient checkpointing within it fails in the backward pass: checkpoint the call of this module instead. (Only in
    PyTorch's transformer layers, a bias or norm that is generated without other weights goes missing unnoticed.)

    Args:
        main_network: the network; its chosen parameters are removed in place.
        hypernetwork: called with the chosen parameters, {name: parameter}; returns a module that maps a condition, or
            None, to {name: tensor} for all these names, with the leading dimensions of the condition. A class will do,
            or `functools.partial(Hypernetwork, ...)`. What it returns is checked at once, or in the first call if its
            attribute `condition_size` says that it needs a condition.
        choose: called with the name and the value of each parameter; whether it is to be generated. All by default.

    Attributes:
        names: every name of each generated parameter; a parameter that modules share has several.

    Raises:
        UserError: no parameter is chosen, one that is chosen belongs to a parametrised module, or the hypernetwork
            cannot generate it.
    """

    def __init__(
        self,
        main_network: nn.Module,
        hypernetwork: Callable[[Mapping[str, nn.Parameter]], nn.Module],
        choose: Callable[[str, nn.Parameter], bool] = every_parameter,
    ) -> None:
        super().__init__()
        if isinstance(hypernetwork, nn.Module):
            raise UserError(
                f"The hypernetwork is a {type(hypernetwork).__name__} that is already built; give its class or a "
                "partial of it, since HyperDNN builds it for the chosen parameters."
            )
        if not callable(hypernetwork):
            raise UserError(f"The hypernetwork is {hypernetwork!r}; give its class or a partial of it.")
        chosen = _choose(main_network, choose)
        _require_one_type(chosen)
        _refuse_plain_lists(main_network, chosen)
        like = next(iter(chosen.values()))
        self.choose = choose
        self.shapes = {name: parameter.shape for name, parameter in chosen.items()}
        generator = hypernetwork(chosen)  # before anything is removed: it may refuse
        if not isinstance(generator, nn.Module):
            raise UserError(
                f"The hypernetwork was built as a {type(generator).__name__}; it must be a torch.nn.Module."
            )
        generator.to(like.device, like.dtype)
        if not getattr(generator, "condition_size", 0):
            with torch.no_grad():
                self._check(generator(None))
        self.names: dict[str, list[str]] = {name: [] for name in chosen}
        self._recurrent: list[str] = []  # torch's own recurrent layers, by name
        name_of = {parameter: name for name, parameter in chosen.items()}
        in_fast_paths = _modules_with_a_fast_path(main_network)
        for prefix, module in main_network.named_modules(prefix=""):  # each once, also where it has several names
            own = module.named_parameters(recurse=False, remove_duplicate=False)
            removed = {attribute: parameter for attribute, parameter in own if parameter in name_of}
            for attribute, parameter in removed.items():
                self.names[name_of[parameter]].append(f"{prefix}.{attribute}".lstrip("."))
                setattr(module, attribute, None)
            if removed and isinstance(module, nn.RNNBase):
                self._recurrent.append(prefix)
            # A module of PyTorch would run without its bias. Others need not be called to have their weights read.
            if removed and _is_of_pytorch(module) and module not in in_fast_paths:
                module.register_forward_pre_hook(partial(_require_in_place, tuple(removed)))
        self.main_network = main_network
        self.hypernetwork = generator

    def weights(self, condition: Tensor | None = None, main_network: nn.Module | None = None) -> dict[str, Tensor]:
        """Generate the chosen parameters: {name: tensor}, each with the shape that the main network had.

        Args:
            condition: the leading dimensions of a batch of conditions are those of each tensor too.
            main_network: another network whose parameters to generate, where `choose` is true; the hypernetwork must be
                `Hypernetwork(..., described=True)`. `torch.func.functional_call(main_network, weights, inputs)` uses
                them.
        """
        if main_network is None:
            return self.hypernetwork(condition)
        shapes = {name: parameter.shape for name, parameter in _choose(main_network, self.choose).items()}
        if not getattr(self.hypernetwork, "described", False):
            raise UserError(
                f"{type(self.hypernetwork).__name__} generates weights for its own main network only; use "
                "Hypernetwork(..., described=True) for others."
            )
        return self.hypernetwork(condition, shapes)

    def forward(self, *inputs: Any, condition: Tensor | None = None, **keywords: Any) -> Any:
        """Call the main network with the weights that the hypernetwork generates for one condition."""
        self._require_one(condition)
        weights = self.weights(condition)
        self._check(weights)
        device = next(iter(weights.values())).device.type
        if not (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(device)  # which would keep a cast of each of them
            or is_transformed()
        ):
            # Some operations round differently where no argument requires a gradient, and those of parameters do.
            weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        return self._call(weights, *inputs, **keywords)

    def forward_with(self, weights: Mapping[str, Tensor], *inputs: Any, **keywords: Any) -> Any:
        """Call the main network with these weights, as `weights()` returned them for one condition.

        For a loss that needs the weights too, such as a penalty on them: they are then generated only once.

        Raises:
            UserError: the weights have other names or shapes than the parameters that they replace.
        """
        self._check(weights)
        return self._call(weights, *inputs, **keywords)

    def _call(self, weights: Mapping[str, Tensor], *inputs: Any, **keywords: Any) -> Any:
        placed = {alias: weights[name] for name, aliases in self.names.items() for alias in aliases}
        self._list_in_recurrent_layers(placed)
        try:
            # Shared parameters are in `placed` under all their names: no search for them in every pass.
            return functional_call(self.main_network, placed, inputs, keywords, tie_weights=False)
        finally:
            self._list_in_recurrent_layers(dict.fromkeys(placed))

    def per_example(
        self, inputs: Tensor | tuple[Tensor, ...], conditions: Tensor, megabytes: float = 1024, **keywords: Any
    ) -> Any:
        """Give every example weights of its own: inputs [B, ...], conditions [B, ...] -> outputs [B, ...].

        Each example is a batch of one for the main network, so the result is that of a loop.

        Args:
            inputs: a tensor, or a tuple of tensors, one for each positional argument of the main network.
            conditions: one for each example.
            megabytes: the weights of as many examples as fit in here are generated at a time. Where that is not the
                whole batch, the backward pass generates them again.
            keywords: passed on to the main network as they are.

        Raises:
            UserError: inputs or outputs that are not tensors with an axis for the examples, another number of
                conditions than of examples, weights of one example that do not fit, or a module whose weights cannot
                differ between examples: batch norm in training, recurrent layers, one that changes its input in place.
        """
        self._require_several(conditions)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        for each in inputs:
            if not isinstance(each, Tensor) or each.dim() == 0:
                kind = "a tensor without dimensions" if isinstance(each, Tensor) else f"of type {type(each).__name__}"
                raise UserError(
                    f"An input of per_example is {kind}; give tensors whose first dimension is the example, and what "
                    "all examples share as keywords."
                )
            if len(each) != len(conditions):
                raise UserError(
                    f"per_example got {len(conditions)} conditions for {len(each)} examples; give one for each example."
                )

        def call(weights: Mapping[str, Tensor], *example: Tensor) -> Any:
            output = self._call(weights, *(each.unsqueeze(0) for each in example), **keywords)
            return tree_map_only(Tensor, of_one_example, output)

        one_by_one = self._largest_kernel() > SMALL_KERNEL or attends_to_much(
            self.main_network, (each[:1] for each in inputs)
        )
        with unchanged((inputs, keywords)):
            return self._several(call, conditions, inputs, megabytes, one_by_one)

    def ensemble(self, inputs: Any, conditions: Tensor, megabytes: float = 1024, **keywords: Any) -> Any:
        """Show one batch to the networks of S conditions: inputs [B, ...], conditions [S, ...] -> outputs [S, B, ...].

        Arguments and errors are as for `per_example`, but inputs may be of any type.
        """
        self._require_several(conditions)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)

        def call(weights: Mapping[str, Tensor]) -> Any:
            return self._call(weights, *inputs, **keywords)

        one_by_one = self._largest_kernel() > 0 or attends_to_much(self.main_network, inputs)
        with unchanged((inputs, keywords)):
            return self._several(call, conditions, (), megabytes, one_by_one)

    def export(self, condition: Tensor | None = None) -> nn.Module:
        """Return the main network as an ordinary module, with the weights for one condition as its parameters.

        Its outputs equal those of this network to the last bit. It shares nothing with this network.
        """
        self._require_one(condition)
        with torch.no_grad():
            weights = self.weights(condition)
        self._check(weights)
        modules = list(self.main_network.modules())
        # What the hooks of `torch.nn.utils` computed in the last call, which deepcopy would refuse.
        computed = [each for m in modules for each in vars(m).values() if isinstance(each, Tensor) and not each.is_leaf]
        plain = copy.deepcopy(self.main_network, {id(each): each.detach().clone() for each in computed})
        for name, weight in weights.items():
            parameter = nn.Parameter(weight.clone())
            for alias in self.names[name]:
                _set_parameter(plain, alias, parameter)
        for module in plain.modules():
            hooks = module._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if getattr(hook, "func", None) is _require_in_place]:
                (attributes,) = hooks[key].args
                if all(getattr(module, attribute) is not None for attribute in attributes):  # not a nested HyperDNN's
                    del hooks[key]
        return plain

    def describe(self) -> str:
        """Say what kind of hypernetwork this is, and count its weights.

        The kind is the five questions of Chauhan et al. (2023), if the hypernetwork answers them by `categories()`.
        """
        generated = sum(shape.numel() for shape in self.shapes.values())
        trained, learned = (
            sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            for module in (self.hypernetwork, self.main_network)
        )
        stays = [name for name, parameter in self.main_network.named_parameters() if parameter.requires_grad]
        if len(stays) > 5:
            stays[4:] = [f"and {len(stays) - 4} other tensors"]
        rows = self.hypernetwork.categories() if hasattr(self.hypernetwork, "categories") else {}
        rows["generated"] = f"{generated:,} weights in {len(self.shapes)} tensors"
        if hasattr(self.hypernetwork, "discarded"):
            rows["discarded"] = f"{self.hypernetwork.discarded:,} weights"
        rows["trained"] = f"{trained:,} parameters of the hypernetwork, {learned:,} of the main network"
        rows["stays learned"] = ", ".join(stays) or "nothing"
        return "\n".join(f"{question:15} {answer}" for question, answer in rows.items())

    def _list_in_recurrent_layers(self, placed: Mapping[str, Tensor | None]) -> None:
        """Torch's recurrent layers read their weights from a list, which functional_call does not know of."""
        for prefix in self._recurrent:
            layer = self.main_network.get_submodule(prefix)
            names = {name: f"{prefix}.{name}".lstrip(".") for name in layer._flat_weights_names}
            layer._flat_weights = [placed.get(alias, getattr(layer, name)) for name, alias in names.items()]

    def _require_one(self, condition: Tensor | None) -> None:
        """Refuse a batch of conditions where the hypernetwork says how many dimensions one has."""
        dimensions = getattr(self.hypernetwork, "condition_dimensions", None)
        if condition is None or dimensions is None:
            return
        if not isinstance(condition, Tensor):
            raise UserError(f"The condition is of type {type(condition).__name__}; give a tensor.")
        if condition.dim() > dimensions:
            raise UserError(
                f"The condition has the shape {list(condition.shape)}, a batch where one is meant; use per_example or "
                "ensemble for several conditions."
            )

    def _require_several(self, conditions: Tensor) -> None:
        """Refuse anything but a list of conditions, where the hypernetwork says how many dimensions one has."""
        dimensions = getattr(self.hypernetwork, "condition_dimensions", None)
        if not isinstance(conditions, Tensor):
            raise UserError(f"The conditions are of type {type(conditions).__name__}; give a tensor.")
        if dimensions is not None and conditions.dim() != 1 + dimensions:
            raise UserError(
                f"The conditions have the shape {list(conditions.shape)}; per_example and ensemble take one after "
                f"another, with {1 + dimensions} dimensions in all."
            )

    def _check(self, weights: Mapping[str, Tensor], leading: tuple[int, ...] = ()) -> None:
        """Refuse weights of other names or shapes, of which functional_call would take some without a word."""
        if not isinstance(weights, Mapping):
            raise UserError(
                f"The weights are a {type(weights).__name__}; a hypernetwork returns a dictionary of names and tensors."
            )
        for name, weight in weights.items():
            if not isinstance(weight, Tensor):
                raise UserError(f"{name} was generated as a {type(weight).__name__}; a hypernetwork returns tensors.")
        if len(weights) != len(self.shapes) or not all(name in weights for name in self.shapes):
            odd = sorted(weights.keys() ^ self.shapes.keys())
            raise UserError(
                f"The weights must have the names of the {len(self.shapes)} generated parameters; these are missing or "
                f"unknown: {', '.join(odd)}."
            )
        for name, shape in self.shapes.items():
            if weights[name].shape == (*leading, *shape):  # one that broadcasts would be taken without a word
                continue
            raise UserError(
                f"{name} was generated with the shape {list(weights[name].shape)}, not {[*leading, *shape]}; a "
                "hypernetwork returns the shapes of the main network, after the leading dimensions of the condition."
            )

    def _several(
        self,
        call: Callable[..., Any],
        conditions: Tensor,
        inputs: tuple[Tensor, ...],
        megabytes: float,
        one_by_one: bool,
    ) -> Any:
        """Stack call(weights, *inputs) for the weights of each condition, and the inputs that go with it.

        The calls are batched by vmap, or on a CPU made one by one where that is faster.
        """
        require_number("megabytes", megabytes, above=0)
        require_batchable(self.main_network)
        if not len(conditions):
            raise UserError("There are no conditions; give at least one.")
        bytes_of_a_weight = next(self.hypernetwork.parameters(), torch.empty(0)).element_size()
        needed = bytes_of_a_weight * sum(shape.numel() for shape in self.shapes.values()) / 2**20
        at_a_time = int(megabytes / needed)
        if at_a_time < 1:
            raise UserError(
                f"The weights for one condition take {needed:,.1f} MB, more than megabytes={megabytes:g}; raise it, or "
                "generate fewer weights."
            )
        one_by_one = one_by_one and conditions.device.type == "cpu"

        def run(conditions: Tensor, *inputs: Tensor) -> Any:
            weights = self.weights(conditions)
            self._check(weights, leading=(len(conditions),))
            if one_by_one:
                return call_one_by_one(call, weights, inputs)
            with buffers_that_stay(self.main_network):
                return call_at_once(call, weights, inputs)

        if len(conditions) <= at_a_time:
            return run(conditions, *inputs)
        again = torch.is_grad_enabled() and not is_transformed()
        parts = [
            checkpoint(run, *part, use_reentrant=False) if again else run(*part)
            for part in zip(*(each.split(at_a_time) for each in (conditions, *inputs)), strict=True)
        ]
        return joined(torch.cat, parts)

    def _largest_kernel(self) -> int:
        """Weights in the largest kernel of a convolution that is generated."""
        convolutions = {
            f"{name}.weight" for name, module in self.main_network.named_modules() if isinstance(module, CONVOLUTIONS)
        }
        kernels = [self.shapes[name].numel() for name, aliases in self.names.items() if convolutions & set(aliases)]
        return max(kernels, default=0)


def _choose(main_network: nn.Module, choose: Callable[[str, nn.Parameter], bool]) -> dict[str, nn.Parameter]:
    """The chosen parameters of a main network by name; raise UserError for none, or for one that is parametrised."""
    if not callable(choose):
        raise UserError(f"choose is {choose!r}; it must be a function of the name and the value of a parameter.")
    if not isinstance(main_network, nn.Module):
        raise UserError(f"The main network is {main_network!r}; it must be a torch.nn.Module.")
    for name, parameter in main_network.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UserError(f"{name} of the main network has no shape yet; call the main network once before.")
    # Of a parameter that modules share, any name will do.
    by_any_name = {p for name, p in main_network.named_parameters(remove_duplicate=False) if choose(name, p)}
    chosen = {name: parameter for name, parameter in main_network.named_parameters() if parameter in by_any_name}
    if not chosen:
        of = ", ".join(f"{name} {list(p.shape)}" for name, p in list(main_network.named_parameters())[:3])
        raise UserError(
            f"No parameter of the main network was chosen, so there is nothing to generate (it has {of or 'none'}, "
            "...); make `choose` true for some of them."
        )
    for name, parameter in chosen.items():
        if not parameter.numel():
            raise UserError(f"{name} has no entries (its shape is {list(parameter.shape)}); do not choose it.")
        parts = name.split(".")
        if "parametrizations" in parts:
            place = parts.index("parametrizations")
            parametrised = ".".join([*parts[:place], parts[place + 1]])
            raise UserError(
                f"{parametrised} is parametrised, so it has no weights of its own to replace; call "
                "torch.nn.utils.parametrize.remove_parametrizations first, or do not choose it."
            )
    return chosen


def _require_one_type(chosen: Mapping[str, nn.Parameter]) -> None:
    """Refuse parameters of several types or devices, or of no floating-point type."""
    (first, like), *others = chosen.items()
    if not like.is_floating_point():
        raise UserError(
            f"{first} is {like.dtype}; a hypernetwork generates weights of a floating-point type, so do not choose it."
        )
    for name, parameter in others:
        if (parameter.dtype, parameter.device) != (like.dtype, like.device):
            raise UserError(
                f"{name} is {parameter.dtype} on {parameter.device}, and {first} {like.dtype} on {like.device}; a "
                "hypernetwork generates weights of one floating-point type on one device, so choose such."
            )


def _refuse_plain_lists(main_network: nn.Module, chosen: Mapping[str, nn.Parameter]) -> None:
    """Refuse parameters that a module also keeps in a plain list, where the generated ones could not be placed."""
    name_of = {id(parameter): name for name, parameter in chosen.items()}
    for module in main_network.modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_flat_weights") or not isinstance(value, (list, tuple, dict)):
                continue
            for each in value.values() if isinstance(value, dict) else value:
                if id(each) in name_of:
                    raise UserError(
                        f"{name_of[id(each)]} is also in {attribute}, a plain {type(value).__name__} of a "
                        f"{type(module).__name__}, where it would not be replaced; use a ParameterList or a "
                        "ParameterDict, or do not choose it."
                    )


def _is_of_pytorch(module: nn.Module) -> bool:
    """Whether this is a layer of PyTorch, or of a class that is derived from one."""
    return any(kind.__module__.startswith("torch.nn.") for kind in type(module).__mro__ if kind is not nn.Module)


def _modules_with_a_fast_path(network: nn.Module) -> set[nn.Module]:
    """PyTorch's transformers with all their modules: if one has a hook, they take another path, with other rounding."""
    kinds = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
    return {part for module in network.modules() if isinstance(module, kinds) for part in module.modules()}


def _require_in_place(attributes: tuple[str, ...], module: nn.Module, inputs: tuple) -> None:
    """Refuse to call a module without its generated weights."""
    if any(getattr(module, attribute) is None for attribute in attributes):
        raise UserError(
            f"A {type(module).__name__} was called without its generated weights, which are in place only during the "
            "call of its HyperDNN; call that, and apply gradient checkpointing to that call, not within the network."
        )


def _set_parameter(network: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(module), attribute, parameter)
