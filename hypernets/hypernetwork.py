"""Hypernetworks of any kind: condition -> body -> heads -> the weights of a main network.

Shape legend
    *   leading dimensions of the condition: none for one condition, B for a batch
    C   condition size, or the size of a token
    M   tokens of a condition that is a set
    N   pieces
    E   embedding size
    F   features
    R   tiles of a block
    s   weights of a tile
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypernets.bodies import CNNBody, MLPBody, RNNBody
from hypernets.errors import UserError, require_true_or_false, require_whole
from hypernets.generation import Block, GenerateComponentWise, Generation, Shapes
from hypernets.places import describe_tiles, description_size, find_places

# Standard deviations at the start:
CONSTANT_DEVIATION = 0.01  # of a tensor that is constant in the main network, as biases often are
RESIDUAL_DEVIATION = 0.1  # of a change to a base, in standard deviations of the base
LAYOUTS_KEPT = 64  # of other main networks
DRAWS = 100  # of embeddings, until every head has features that are not zero


class _NoFeatures(UserError):
    def __init__(self, body: str) -> None:
        super().__init__(f"The features of {body} are all zero at the start; give it more units.")


class Hypernetwork(nn.Module):
    """Generates the weights of a main network piece by piece, with or without a condition.

        chunks = partial(Hypernetwork, generation=GenerateChunkWise(750), body=MLPBody(100, 100), condition_size=32)
        network = HyperDNN(main_network, chunks)
        logits = network(images, condition=condition)  # condition [32]

    For a condition c and N pieces with embeddings e_n:

        h_1 ... h_N = body([c; e_1], ..., [c; e_N])
        w_n         = H_k h_n + b_k                          by the head k of the piece
        theta_t     = base_t + scale_t * (the pieces of t)   for each tensor t of the main network

    The strategy says how the tensors are cut into pieces (generation.py), and the body whether the pieces see each
    other (bodies.py). Where c comes from is up to the caller: a learned row for each task, what an encoder makes of
    data, noise, known parameters. Its entries should have a mean square of about 1.

    Initialisation. The main network has initialised itself. base_t and scale_t are constants, measured so that each
    generated tensor starts with its own mean and standard deviation over random conditions, whatever the strategy and
    the body are, and also where a chunk crosses two tensors. A tensor that starts as a constant, such as a bias of
    zeros, keeps it, with a standard deviation of 0.01 so that it can learn. The biases b_k start so that the pieces of
    a head have mean zero; otherwise the positive features of a ReLU would make them all alike.

    Args:
        parameters: name -> parameter of the main network, of which the shapes and the initial values are read.
        generation: the strategy, such as `GenerateChunkWise(750)`.
        body: `MLPBody`, `CNNBody`, `RNNBody` or `AttentionBody`; or a function that makes a module from C + E, which
            maps [*, N, C + E] to [*, N, F]; or such a module, which all hypernetworks that are given it then share.
        condition_size: C; 0 for no condition.
        condition_is_set: whether a condition is a set of tokens, [M, C], for `AttentionBody`.
        embedding_size: E.
        residual: whether base_t is the whole initial tensor, as for a pretrained main network, and not only its mean.
            What is added then starts with a tenth of the standard deviation.
        learn_base: whether such a base is learned too.
        described: whether e_n is a linear map of the piece's place in the main network (its depth, fans, kind and
            position, places.py) and not a learned row. Such a hypernetwork also generates weights for main networks of
            other depths and widths. Its scales are constants of each kind of tensor, divided by the square root of the
            fan in.

    Raises:
        UserError: no parameters, an unknown choice, a size below one, or choices that do not fit together.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        generation: Generation,
        body: nn.Module | Callable[..., nn.Module],
        condition_size: int = 0,
        condition_is_set: bool = False,
        embedding_size: int = 32,
        residual: bool = False,
        learn_base: bool = True,
        described: bool = False,
    ) -> None:
        super().__init__()
        require_whole("condition_size", condition_size, least=0)
        flags = {"condition_is_set": condition_is_set, "residual": residual, "learn_base": learn_base}
        for name, value in (flags | {"described": described}).items():
            require_true_or_false(name, value)
        require_whole("embedding_size", embedding_size)
        if not learn_base and not residual:
            raise UserError(
                "learn_base=False is for residual=True, whose base can be learned; set that, or leave it out."
            )
        if not parameters:
            raise UserError("A hypernetwork needs at least one parameter to generate; it got none.")
        if isinstance(generation, type) or not hasattr(generation, "lay_out"):
            raise UserError(
                f"generation is {generation!r}; it must be GenerateOnce(), GenerateMultiple(heads), "
                "GenerateChunkWise(size) or GenerateComponentWise(component)."
            )
        if described and (residual or not isinstance(generation, GenerateComponentWise)):
            raise UserError(
                "A described hypernetwork generates tensors of other shapes too, so it takes generation="
                f"GenerateComponentWise(...) and no residual; it got {generation!r} and residual={residual!r}."
            )
        self.generation, self.body_name = generation, type(body).__name__ if isinstance(body, nn.Module) else repr(body)
        self.condition_size, self.condition_is_set = condition_size, condition_is_set
        self.described, self.residual = described, residual

        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        blocks = generation.lay_out(shapes)
        self.tiles = list(dict.fromkeys(block.tile for block in blocks))  # the shape that each head makes
        self.kinds = sorted({place.kind for place in find_places(shapes).values()}) if described else []
        self.layout = self._lay_out(shapes)
        self._other_layouts: dict[tuple, _Layout] = {}  # of other main networks, by their shapes

        if described:
            size = description_size(self.kinds)
            self.embed = nn.Linear(size, embedding_size)
            nn.init.normal_(self.embed.weight, std=size**-0.5)
            nn.init.zeros_(self.embed.bias)
        else:
            self.embeddings = nn.Parameter(torch.randn(sum(block.pieces for block in blocks), embedding_size))
        self.body = _build_body(body, condition_size, condition_is_set, embedding_size)
        features = self._number_of_features()
        split = {block.tile: block.heads for block in blocks}
        self.heads = nn.ModuleList(_build_head(features, math.prod(tile), split[tile]) for tile in self.tiles)

        mean, self._deviation = self._statistics(parameters)
        if residual:
            bases = [nn.Parameter(p.detach().clone(), requires_grad=learn_base) for p in parameters.values()]
            self.base = nn.ParameterList(bases)
        else:
            self.register_buffer("base", mean)
        self.register_buffer("scale", torch.ones_like(mean))
        self._start()

    def _start(self) -> None:
        """Measure the scales; draw embeddings for which no head has only zeros to read."""
        for draws_left in reversed(range(DRAWS)):
            try:
                return self.measure_scales()
            except _NoFeatures:
                if self.described or not draws_left:
                    raise
                nn.init.normal_(self.embeddings)

    def forward(self, condition: Tensor | None = None, shapes: Shapes | None = None) -> dict[str, Tensor]:
        """Generate the weights: name -> tensor [*, its shape], with the leading dimensions of the condition.

        Args:
            condition: [*, C], or [*, M, C] if it is a set; None without a condition.
            shapes: name -> shape of the tensors of another main network, if the hypernetwork is described.

        Raises:
            UserError: the condition has another size, or the other shapes cannot be generated.
        """
        self._check(condition)
        layout = self.layout if shapes is None else self._other_layout(shapes)
        # As in static.py: every weight hangs on these products, so they keep full precision under autocast.
        with torch.autocast(self.scale.device.type, enabled=False):
            pieces = self._pieces(self._features(condition, layout), layout)
            base, scale = list(self.base), self.scale.unbind()
            return {
                name: torch.addcmul(base[index], pieces[name], scale[index], value=factor)
                for name, (index, factor) in layout.scales.items()
            }

    @torch.no_grad()
    def measure_scales(self, conditions: Tensor | None = None) -> None:
        """Set all scale_t and b_k so that the weights start as the class says.

        It is called at construction. Call it again if you have changed parameters since, or if your conditions are
        distributed differently. The standard deviations are those that the main network had at construction.

        Args:
            conditions: examples of them, [K, C], or [K, M, C] if they are sets; standard normal if not given.

        Raises:
            UserError: the conditions have another size, or a body has no features that are not zero.
        """
        if conditions is None:
            conditions = self._random_conditions()
        self._check(conditions)
        if conditions is not None and (conditions.dim() != 1 + self.condition_dimensions or not len(conditions)):
            raise UserError(f"The conditions have the shape {list(conditions.shape)}; give several, one after another.")
        features = self._features(conditions, self.layout)
        features = features.unsqueeze(0) if conditions is None else features  # [K, N, F]
        for head, own in zip(self.heads, self._features_of_heads(features, self.layout), strict=True):
            parts = head.parts(own) if isinstance(head, _SplitHead) else own.unsqueeze(-1)
            if not parts.flatten(0, -2).any(dim=0).all():
                raise _NoFeatures(self.body_name)
            if own.shape[-2] > 1:  # a piece that is the only one has none to be different from
                nn.init.zeros_(head.bias)
                head.bias.sub_(head(own.flatten(0, -2).mean(dim=0)))
        dtype = torch.promote_types(self.scale.dtype, torch.float32)  # half precision is too coarse for the sums
        squares, counts = self.scale.new_zeros(2, len(self.scale), dtype=dtype)
        for each in features:  # one condition at a time, since a set of weights may be large
            for name, piece in self._pieces(each, self.layout).items():
                index, _ = self.layout.scales[name]
                squares[index] += piece.to(dtype).square().sum()
                counts[index] += piece.numel()
        if not squares.all():
            raise _NoFeatures(self.body_name)
        self.scale.copy_(squares.new_tensor(self._deviation) / (squares / counts).sqrt())

    def categories(self) -> dict[str, str]:
        """Answer the five questions of Chauhan et al. (2023)."""
        condition = f"{'sets of vectors' if self.condition_is_set else 'a vector'} of {self.condition_size}"
        blocks = self.layout.blocks
        pieces, heads = sum(block.pieces for block in blocks), len(self.heads) * blocks[0].heads
        return {
            "conditioned on": condition if self.condition_size else "nothing",
            "generation": f"{self.generation}: {_count(pieces, 'piece')}, {_count(heads, 'head')}",
            "inputs": "dynamic unless the condition is learned" if self.condition_size else "static",
            "outputs": "dynamic, main networks of any depth and width" if self.described else "static",
            "architecture": self.body_name,
        }

    @property
    def condition_dimensions(self) -> int:
        """Dimensions of one condition."""
        return 1 + self.condition_is_set

    @property
    def discarded(self) -> int:
        """Weights that are generated but not used."""
        return sum(block.discarded for block in self.layout.blocks)

    def extra_repr(self) -> str:
        return f"{self.generation}, condition_size={self.condition_size}, described={self.described}"

    def _features(self, condition: Tensor | None, layout: "_Layout") -> Tensor:
        """The features of all pieces, [*, N, F]."""
        embeddings = self.embeddings if layout.description is None else self.embed(self._description(layout))
        if condition is None:
            return self.body(embeddings)
        condition = condition.to(embeddings.dtype)
        if self.condition_is_set:
            return self.body(embeddings.expand(*condition.shape[:-2], -1, -1), condition)
        leading = condition.shape[:-1]
        repeated = condition.unsqueeze(-2).expand(*leading, len(embeddings), -1)
        return self.body(torch.cat([repeated, embeddings.expand(*leading, -1, -1)], dim=-1))

    def _description(self, layout: "_Layout") -> Tensor:
        """The description of all pieces [N, D]; it stays on the device, so that it is copied there only once."""
        with torch.inference_mode(False):  # so that a later training step can use it, too
            layout.description = layout.description.to(self.embed.weight.device)
        return layout.description.to(self.embed.weight.dtype)

    def _features_of_heads(self, features: Tensor, layout: "_Layout") -> list[Tensor]:
        """The features [*, pieces of the head, F] for each head."""
        if len(self.heads) == 1:
            return [features]
        of_blocks = features.split([block.pieces for block in layout.blocks], dim=-2)
        own = [
            [part for part, block in zip(of_blocks, layout.blocks, strict=True) if block.tile == t] for t in self.tiles
        ]
        return [torch.cat(parts, dim=-2) if parts else features[..., :0, :] for parts in own]

    def _pieces(self, features: Tensor, layout: "_Layout") -> dict[str, Tensor]:
        """Features [*, N, F] -> name -> the pieces of the tensor in their places, [*, its shape]."""
        pieces = {}
        of_heads = self._features_of_heads(features, layout)
        for tile, head, own in zip(self.tiles, self.heads, of_heads, strict=True):
            blocks = [block for block in layout.blocks if block.tile == tile]
            tiles = head(own).split([block.tiles for block in blocks], dim=-2)
            for block, part in zip(blocks, tiles, strict=True):
                pieces.update(block.assemble(part))
        return pieces

    def _check(self, condition: Tensor | None) -> None:
        expected = f"[..., {'M, ' if self.condition_is_set else ''}{self.condition_size}]"
        if condition is None and self.condition_size:
            raise UserError(f"This hypernetwork needs a condition {expected}; pass condition=...")
        if condition is not None and not self.condition_size:
            raise UserError("This hypernetwork takes no condition: leave it out, or build it with condition_size=...")
        if condition is None:
            return
        if not isinstance(condition, Tensor):
            raise UserError(f"The condition is of type {type(condition).__name__}; give a tensor.")
        if condition.dim() < self.condition_dimensions or condition.shape[-1] != self.condition_size:
            raise UserError(
                f"The condition has the shape {list(condition.shape)}, but this hypernetwork takes {expected}; change "
                "the condition, or condition_size."
            )

    def _random_conditions(self) -> Tensor | None:
        """Sixteen conditions, sets of eight tokens where they are sets."""
        if not self.condition_size:
            return None
        shape = (16, 8, self.condition_size) if self.condition_is_set else (16, self.condition_size)
        return torch.randn(shape).to(next(self.parameters()))

    @torch.no_grad()
    def _number_of_features(self) -> int:
        """F; raise UserError if the heads cannot read what the body returns."""
        conditions = self._random_conditions()
        features = self._features(conditions, self.layout)
        pieces = sum(block.pieces for block in self.layout.blocks)
        leading = [] if conditions is None else [len(conditions)]
        if list(features.shape[:-1]) != [*leading, pieces]:
            raise UserError(
                f"The body returns the shape {list(features.shape)} for {pieces} pieces and {leading or 'no'} "
                f"conditions; it must return {[*leading, pieces]} and the features as the last dimension."
            )
        return features.shape[-1]

    def _lay_out(self, shapes: Shapes) -> "_Layout":
        blocks = self.generation.lay_out(shapes)
        if not self.described:
            return _Layout(blocks, {name: (index, 1.0) for index, name in enumerate(shapes)})
        places = find_places(shapes)
        for block in blocks:
            ((name, shape),) = block.tensors.items()
            if block.tile not in self.tiles or places[name].kind not in self.kinds:
                raise UserError(
                    f"{name} has the shape {list(shape)}, whose tiles are {list(block.tile)}, and the hypernetwork was "
                    "built for a main network without such a tensor; build it for one that has all kinds of tensors."
                )
        scales = {name: (self.kinds.index(place.kind), place.fan_in**-0.5) for name, place in places.items()}
        tiles = [describe_tiles(block, places[next(iter(block.tensors))], self.kinds) for block in blocks]
        return _Layout(blocks, scales, torch.cat(tiles))

    def _other_layout(self, shapes: Shapes) -> "_Layout":
        if not self.described:
            raise UserError(
                "Only a described hypernetwork generates weights for another main network; build it with "
                "described=True."
            )
        key = tuple((name, tuple(shape)) for name, shape in shapes.items())
        if key not in self._other_layouts:
            if len(self._other_layouts) == LAYOUTS_KEPT:
                del self._other_layouts[next(iter(self._other_layouts))]  # the oldest
            with torch.inference_mode(False):
                self._other_layouts[key] = self._lay_out(dict(key))
        return self._other_layouts[key]

    def _statistics(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, list[float]]:
        """The mean and the standard deviation to start with, for each index of `scales`."""
        size = len(self.kinds) or len(parameters)
        sums, squares, counts = torch.zeros(3, size, dtype=torch.float64)
        for name, parameter in parameters.items():
            index, factor = self.layout.scales[name]
            value = parameter.detach().to("cpu", torch.float64)
            deviation = float(value.std(correction=0)) * (RESIDUAL_DEVIATION if self.residual else 1)
            # Not only where it is zero: rounding leaves a little in the deviation of a constant.
            if deviation <= 1e-6 * float(value.abs().max()):
                deviation = CONSTANT_DEVIATION
            sums[index] += value.sum()
            squares[index] += value.numel() * (deviation / factor) ** 2
            counts[index] += value.numel()
        mean = (sums / counts).to(torch.get_default_dtype())
        return mean, (squares / counts).sqrt().tolist()


@dataclass
class _Layout:
    """How the tensors of a main network are generated."""

    blocks: list[Block]
    scales: dict[str, tuple[int, float]]  # name -> the index of its base and scale, and a factor of the scale
    description: Tensor | None = None  # [N, D] if described


class _SplitHead(nn.Module):
    """K heads for one piece, of which head k reads the features k, k + K, k + 2 K, ...: [*, 1, F] -> [*, K, s]."""

    def __init__(self, features: int, size: int, heads: int) -> None:
        super().__init__()
        if features % heads:
            raise UserError(f"The body has {features} features, which {heads} heads do not divide; change one of them.")
        self.weight = nn.Parameter(torch.empty(size, heads, features // heads))  # Muon takes it as K matrices
        self.bias = nn.Parameter(torch.zeros(heads, size))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("skf,...fk->...ks", self.weight, self.parts(features)) + self.bias

    def parts(self, features: Tensor) -> Tensor:
        """The features [*, F / K, K] that each head reads, from [*, 1, F]."""
        return features.squeeze(-2).unflatten(-1, (-1, len(self.bias)))


def _build_head(features: int, size: int, heads: int) -> nn.Module:
    head = nn.Linear(features, size) if heads == 1 else _SplitHead(features, size, heads)
    nn.init.normal_(head.weight, std=head.weight.shape[-1] ** -0.5)
    nn.init.zeros_(head.bias)
    return head


def _build_body(
    body: nn.Module | Callable[..., nn.Module], condition_size: int, condition_is_set: bool, embedding_size: int
) -> nn.Module:
    if condition_is_set and (isinstance(body, (MLPBody, CNNBody, RNNBody)) or not condition_size):
        raise UserError(
            f"A condition that is a set needs its size and body=AttentionBody(units); it got "
            f"condition_size={condition_size} and {body!r}."
        )
    built = body
    if callable(body) and not isinstance(body, nn.Module):
        built = body(embedding_size, condition_size) if condition_is_set else body(condition_size + embedding_size)
    if not isinstance(built, nn.Module):
        raise UserError(
            f"body is {body!r}; it must be MLPBody(units, ...), CNNBody(channels, ...), RNNBody(units), "
            "AttentionBody(units), a module of your own, or a function that makes one."
        )
    return built


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
