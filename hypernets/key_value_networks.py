"""Key-value networks: what users of Stable Diffusion call a hypernetwork. They generate no weights.

Shape legend
    ...  any batch dimensions
    N    tokens of the context
    C    context width: features of a token
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from hypernets.errors import UserError, require_number, require_true_or_false

# By the names that the web UI gives them: its own, and every activation of torch.nn in lower case.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    **{
        name.lower(): getattr(nn, name)
        for name in nn.modules.activation.__all__
        if name not in ("GLU", "MultiheadAttention", "Threshold")  # these have other inputs or outputs
    },
    "linear": nn.Identity,
    "swish": nn.Hardswish,
}
OLD_DROPOUT = 0.3  # of files that only say where there is dropout
WHICH = ("key", "value")
OLD_NAMES = {f"linear{old}.{kind}": f"linear.{old - 1}.{kind}" for old in (1, 2) for kind in ("weight", "bias")}


def is_attention(module: nn.Module) -> bool:
    """Whether it is a `nn.MultiheadAttention`, or has projections `to_q`, `to_k` and `to_v`, as in diffusers."""
    return isinstance(module, nn.MultiheadAttention) or all(
        isinstance(getattr(module, name, None), nn.Linear) for name in ("to_q", "to_k", "to_v")
    )


def cross_attention(name: str, module: nn.Module) -> bool:
    """Choose the cross-attentions of a model: for the argument `attention` of `KeyValueNetworks`.

    A `nn.MultiheadAttention` is taken for one unless it is called `self_attn`, as in PyTorch's transformer layers.
    """
    if isinstance(module, nn.MultiheadAttention):
        return name.rpartition(".")[2] != "self_attn"
    return getattr(module, "is_cross_attention", module.to_k.in_features != module.to_q.in_features)


def context_widths(module: nn.Module) -> tuple[int, int]:
    """The features from which an attention reads its keys and its values: C twice, if they are of one context."""
    if isinstance(module, nn.MultiheadAttention):
        return module.kdim, module.vdim
    return module.to_k.in_features, module.to_v.in_features


def require_structure(layer_structure: Any, activation: str, dropout: Any) -> None:
    """Raise UserError unless a `ContextNetwork` can be built like this."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}.")
    is_list = isinstance(layer_structure, (list, tuple)) and len(layer_structure) >= 2
    if is_list:
        for multiple in layer_structure:
            require_number("A multiple in layer_structure", multiple, above=0)
    if not is_list or (layer_structure[0], layer_structure[-1]) != (1, 1):
        raise UserError(
            f"layer_structure is {layer_structure!r}; it must be positive multiples of the context width that "
            "begin and end with 1, such as (1, 2, 1)."
        )
    if not isinstance(dropout, (list, tuple)) or (dropout and len(dropout) != len(layer_structure)):
        raise UserError(
            f"dropout is {dropout!r}; it must have a probability for each of the {len(layer_structure)} sizes in "
            "layer_structure, or be empty."
        )
    for probability in dropout:
        require_number("A probability in dropout", probability, least=0, below=1)
    if dropout and (dropout[0], dropout[-1]) != (0, 0):
        raise UserError(f"dropout is {dropout!r}; it must begin and end with 0, since only hidden layers have dropout.")


class ContextNetwork(nn.Module):
    """x + strength * MLP(x) on tokens x [..., C]: the change to a context before K or V."""

    def __init__(
        self,
        width: int,
        layer_structure: Sequence[float],
        activation: str,
        layer_norm: bool,
        dropout: Sequence[float],
        activate_output: bool,
    ) -> None:
        super().__init__()
        sizes = [max(1, int(width * multiple)) for multiple in layer_structure]
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
            last = nn.Linear(inputs, outputs)
            layers.append(last)
            if activation != "linear" and (index < len(sizes) - 1 or activate_output):
                layers.append(ACTIVATIONS[activation]())
            if layer_norm:
                last = nn.LayerNorm(outputs)
                layers.append(last)
            if dropout and dropout[index]:
                layers.append(nn.Dropout(dropout[index]))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.linear = nn.Sequential(*layers)  # the attribute's name is in the files

    def forward(self, context: Tensor, strength: float) -> Tensor:
        """Change a context [..., C]."""
        return context + strength * self.linear(context)


class KeyValueNetworks(nn.Module):
    """A frozen model whose attention reads its context through small networks, one for the keys and one for the values.

        styled = KeyValueNetworks(unet)              # of diffusers, or any module with nn.MultiheadAttention
        noise = styled(latents, timestep, encoder_hidden_states=text)  # the same as unet(...), until it is trained
        torch.save(styled.web_ui_state("my style"), "my_style.pt")     # for the Stable Diffusion web UI
        styled = KeyValueNetworks.from_web_ui(unet, torch.load("my_style.pt", weights_only=True))

    In each chosen attention with the context x [..., N, C]:

        K = W_K (x + strength * f_C(x)),    V = W_V (x + strength * g_C(x))

    with one pair of MLPs f_C and g_C for each context width C, shared by all layers of that width. This is what the
    Stable Diffusion web UI trains as a "hypernetwork", and its file format is read and written here. It is not a
    hypernetwork in the sense of this library, because it generates no weights: f and g are learned like any other
    layer. But a hypernetwork may generate *them*, one set for each style:

        chunks = partial(Hypernetwork, generation=GenerateChunkWise(4096), body=MLPBody(64), condition_size=8)
        styles = HyperDNN(styled, chunks, choose=lambda name, parameter: name.startswith("networks."))
        noise = styles(latents, timestep, text, condition=style)

    The last layer of each MLP starts at zero, so the model starts as the frozen one exactly. There are two exceptions:
    `nn.MultiheadAttention` rounds in another way when keys and values no longer come from one tensor, and with
    `activate_output` the activation must be zero at zero. The hooks stay in the frozen model, which may go on being
    called by itself, in a pipeline for example. A second `KeyValueNetworks` on the same model comes on top of the
    first; set the strength of the first to 0 to switch it off.

    Args:
        frozen_model: its parameters are frozen in place, and it stays in evaluation mode.
        attention: called with the name and the module of each attention (see `is_attention`); whether to change it.
        strength: may be changed at any time; 0 is the frozen model.
        layer_structure: the sizes of the MLPs in multiples of C; the first and the last must be 1.
        activation: between the layers: "linear" for none, or "relu", "leakyrelu", "swish", "mish", ...
        layer_norm: after each layer.
        dropout: probability after each size of `layer_structure`, such as (0, 0.3, 0); empty for none.
        activate_output: the activation follows the last layer, too.

    Raises:
        UserError: no attention is chosen, or an unknown activation, impossible layer structure or impossible dropout is
            given.
    """

    def __init__(
        self,
        frozen_model: nn.Module,
        attention: Callable[[str, nn.Module], bool] = cross_attention,
        strength: float = 1.0,
        layer_structure: Sequence[float] = (1, 2, 1),
        activation: str = "linear",
        layer_norm: bool = False,
        dropout: Sequence[float] = (),
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        require_structure(layer_structure, activation, dropout)
        require_number("strength", strength)
        require_true_or_false("layer_norm", layer_norm)
        require_true_or_false("activate_output", activate_output)
        if not callable(attention):
            raise UserError(f"attention is {attention!r}; it must be a function of a name and a module.")
        found = {name: module for name, module in frozen_model.named_modules() if is_attention(module)}
        chosen: dict[str, int] = {}
        for name, module in found.items():
            if attention(name, module):
                chosen[name], of_values = context_widths(module)
                if of_values != chosen[name]:
                    raise UserError(
                        f"{name or 'The attention'} reads keys from {chosen[name]} and values from {of_values} "
                        "features, so they do not come from one context; make `attention` false for it."
                    )
        if not chosen:
            raise UserError(
                f"No attention of the model was chosen (it has {', '.join(list(found)[:3]) or 'none'}, ...); make "
                "`attention` true for some, which must be nn.MultiheadAttention or have to_q, to_k and to_v."
            )
        self.strength = strength
        self._structure = {  # by the names in the files
            "layer_structure": list(layer_structure),
            "activation_func": activation,
            "is_layer_norm": layer_norm,
            "use_dropout": any(dropout),
            "dropout_structure": list(dropout) or [0] * len(layer_structure),
            "last_layer_dropout": any(dropout[-2:]),
            "activate_output": activate_output,
        }
        self.frozen_model = frozen_model.requires_grad_(False).eval()
        self._chosen = list(chosen)
        for module in frozen_model.modules():
            # Their nested tensors are for a fast path only, which an attention that is changed does not take.
            if isinstance(module, nn.TransformerEncoder) and {found[name] for name in chosen} & set(module.modules()):
                module.enable_nested_tensor = module.use_nested_tensor = False
        like = next(frozen_model.parameters())
        network = partial(
            ContextNetwork,
            layer_structure=layer_structure,
            activation=activation,
            layer_norm=layer_norm,
            dropout=dropout,
            activate_output=activate_output,
        )
        widths = sorted(set(chosen.values()))
        pairs = {f"{width}": nn.ModuleDict({which: network(width) for which in WHICH}) for width in widths}
        self.networks = nn.ModuleDict(pairs).to(like.device, like.dtype)
        for name, width in chosen.items():
            module = found[name]
            # Bound methods, which a deep copy of this module binds to the copy.
            if isinstance(module, nn.MultiheadAttention):
                hook = partial(self._change_both, f"{width}")
                module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                module.to_k.register_forward_pre_hook(partial(self._change_one, f"{width}", "key"))
                module.to_v.register_forward_pre_hook(partial(self._change_one, f"{width}", "value"))

    def _change_one(self, width: str, which: str, _: nn.Module, inputs: tuple) -> tuple:
        if not self.strength:
            return inputs
        context, *others = inputs
        return (self.networks[width][which](context, self.strength), *others)

    def _change_both(
        self, width: str, _: nn.Module, inputs: tuple, keywords: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        if not self.strength:
            return inputs, keywords
        names = ("query", "key", "value")
        given = dict(zip(names, inputs, strict=False)) | keywords
        query, key, value = (given.pop(name) for name in names)
        pair = self.networks[width]
        changed = pair["key"](key, self.strength), pair["value"](value, self.strength)
        return (query, *changed, *inputs[3:]), given

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Call the model. Raises UserError where diffusers has fused the projections of an attention."""
        for name in self._chosen:
            processor = getattr(self.frozen_model.get_submodule(name), "processor", None)
            if type(processor).__name__.startswith("Fused"):
                raise UserError(
                    f"{name} has fused projections, which read the context past the networks; call "
                    "unfuse_qkv_projections() on the model."
                )
        return self.frozen_model(*inputs, **keywords)

    def train(self, mode: bool = True) -> "KeyValueNetworks":
        """Set the mode of the networks; the frozen model stays in evaluation mode."""
        super().train(mode)
        self.frozen_model.eval()
        return self

    def web_ui_state(self, name: str, step: int = 0) -> dict[Any, Any]:
        """Return what a file of the web UI holds, for `torch.save`: {C: (keys, values)}, and how to build them."""
        pairs = {
            int(width): tuple(
                {key: value.detach().clone() for key, value in network.state_dict().items()}
                for network in (pair["key"], pair["value"])
            )
            for width, pair in self.networks.items()
        }
        checkpoint = {"sd_checkpoint": None, "sd_checkpoint_name": None, "weight_initialization": "Normal"}
        return {**pairs, "step": step, "name": name, **self._structure, **checkpoint}

    @classmethod
    def from_web_ui(
        cls, frozen_model: nn.Module, state: Mapping[Any, Any], strength: float = 1.0
    ) -> "KeyValueNetworks":
        """Build the networks that a file of the web UI holds, from `torch.load(path, weights_only=True)`.

        As there, every attention whose context width is in the file is changed, self-attention too; widths that the
        model does not have are left out.

        Raises:
            UserError: the file is not one of the web UI's, or has no width of the model.
        """
        if not isinstance(state, Mapping):
            raise UserError(f"The file holds a {type(state).__name__}; a hypernetwork of the web UI is a dictionary.")
        pairs = {width: pair for width, pair in state.items() if isinstance(width, int)}
        found = [context_widths(module) for module in frozen_model.modules() if is_attention(module)]
        present = {key for key, value in found if key == value}
        if not pairs.keys() & present:
            raise UserError(
                f"The file has networks for contexts of {', '.join(map(str, pairs)) or 'no'} features, but the model's "
                f"attention reads {', '.join(map(str, sorted(present))) or 'none'}; use the model that it was made for."
            )
        structure = {
            "layer_structure": state.get("layer_structure") or (1, 2, 1),
            "activation": state.get("activation_func") or "linear",
            "layer_norm": bool(state.get("is_layer_norm")),
            "dropout": state.get("dropout_structure") or (),
            "activate_output": bool(state.get("activate_output", True)),
        }
        require_structure(structure["layer_structure"], structure["activation"], structure["dropout"])
        hidden = len(structure["layer_structure"]) - 2
        if state.get("use_dropout") and not structure["dropout"] and hidden:
            before_last = OLD_DROPOUT if state.get("last_layer_dropout") else 0
            structure["dropout"] = (0, *[OLD_DROPOUT] * (hidden - 1), before_last, 0)
        networks = nn.ModuleDict()
        for width in sorted(pairs.keys() & present):
            pair = pairs[width]
            if not isinstance(pair, (list, tuple)) or [isinstance(each, Mapping) for each in pair] != [True, True]:
                raise UserError(f"The file has no pair of networks for {width} features; use one of the web UI.")
            networks[f"{width}"] = nn.ModuleDict({which: ContextNetwork(width, **structure) for which in WHICH})
            for network, saved in zip(networks[f"{width}"].values(), pair, strict=True):
                try:
                    network.load_state_dict({OLD_NAMES.get(name, name): value for name, value in saved.items()})
                except (RuntimeError, AttributeError) as error:  # the latter where a value is no tensor
                    reason = " ".join(str(error).split())[:300]
                    raise UserError(
                        f"The networks for {width} features are not what the file says: {reason}."
                    ) from None
        styled = cls(
            frozen_model,  # unchanged until here: the file may have been refused
            attention=lambda _, module: context_widths(module) in {(width, width) for width in pairs},
            strength=strength,
            **structure,
        )
        styled.networks.load_state_dict(networks.state_dict())
        return styled

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}"
