"""Loads the weights of the authors' released TensorFlow cells by name.

The released cells store matrices as [inputs, outputs] and stack the gates in the order i, j, f, o, where j is
the paper's g; a layer of this package stacks them the same way, transposed.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypernets.errors import UserError
from hypernets.recurrent.hyperlstm import HyperLSTM
from hypernets.recurrent.lstm import LSTM


class ReleasedArray(NamedTuple):
    """Where a layer keeps an array of a released cell: which piece of which parameter of its `state_dict()` it is."""

    parameter: str
    index: int = 0
    pieces: int = 1  # the parameter has this many along its first axis

    def view(self, tensor: Tensor) -> Tensor:
        """Return the view of the parameter, or of its gradient, that has the array's shape and layout."""
        if tensor.dim() == 4:  # row scales, which are stored as the released cells store them
            return tensor.flatten(0, 1)[self.index]
        return tensor.chunk(self.pieces)[self.index].t()


def load_released_cell(arrays: Mapping[str, Any]) -> LSTM | HyperLSTM:
    """Build the layer that computes what a released cell with these weights computes, with the forget bias 1.

    Args:
        arrays: the weights of one released HyperLSTMCell or LSTMCell by the names of their TensorFlow variables, with
            or without a scope in front ("rnn/HyperLSTMCell/W_xh" or "W_xh"); numpy arrays or tensors. They determine
            the kind of cell, layer norm and all sizes, and the layer has the dtype of W_xh.

    Raises:
        UserError: names that are missing or unknown, or arrays of the wrong shape; the message names them.
    """
    scope, is_hyper = _scope_and_kind(arrays)
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    layer_norm = any(name.rsplit("/", 1)[-1] in ("ln_gamma", "ln_beta") for name in tensors)
    places = released_arrays(is_hyper, layer_norm)

    kind = f"{'layer-normalised ' if layer_norm else ''}{'HyperLSTM' if is_hyper else 'LSTM'}"
    unknown = sorted(set(tensors) - {scope + name for name in places})
    if unknown:
        raise UserError(f"A released {kind} cell has no arrays named {', '.join(unknown)}; leave them out.")
    missing = sorted({scope + name for name in places} - set(tensors))
    if missing:
        raise UserError(f"These arrays of a released {kind} cell are missing: {', '.join(missing)}; add them.")

    def size(name: str, axis: int) -> int:
        shape = list(tensors[scope + name].shape)
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{scope + name} has the shape {shape}; expected a matrix, [inputs, outputs].")
        return shape[axis]

    if is_hyper:
        sizes = {"hyper_size": size("LSTMCell/W_hh_i", 0), "embedding_size": size("hyper_ix/zw/super_linear_w", 1)}
        layer = HyperLSTM(size("W_xh", 0), size("W_hh", 0), layer_norm=layer_norm, **sizes)
    else:
        layer = LSTM(size("W_xh", 0), size("W_hh_i", 0), layer_norm=layer_norm)
    layer.to(tensors[scope + "W_xh"].dtype)

    with torch.no_grad():
        for name, place in places.items():
            target, array = place.view(layer.get_parameter(place.parameter)), tensors[scope + name]
            if array.shape != target.shape:
                raise UserError(
                    f"{scope + name} has the shape {list(array.shape)}; expected {list(target.shape)}, as "
                    f"W_xh is for {layer.input_size} inputs and the cell has {layer.hidden_size} units."
                )
            target.copy_(array)
    return layer


def released_arrays(is_hyper: bool, layer_norm: bool) -> dict[str, ReleasedArray]:
    """Return the place of each array of a released cell in a layer, by its name without a scope."""
    of_lstm = {"W_xh": "weight_x", "W_hh_i": "weight_h", "bias": "bias"}
    if layer_norm:
        of_lstm |= {"ln/ln_gamma": "gate_gamma", "ln/ln_beta": "gate_beta"}
        of_lstm |= {"ln_c/ln_gamma": "cell_gamma", "ln_c/ln_beta": "cell_beta"}
    places = {name: ReleasedArray(f"cells.0.{parameter}") for name, parameter in of_lstm.items()}
    if not is_hyper:
        return places
    renamed = {"W_hh_i": "W_hh", "ln/ln_gamma": "ln_all/ln_gamma", "ln/ln_beta": "ln_all/ln_beta"}
    places = {renamed.get(name, name): place for name, place in places.items()}
    places |= {f"LSTMCell/{name}": ReleasedArray(f"cells.0.hyper_cell.{own}") for name, own in of_lstm.items()}
    for part, target, z, scales in ((1, "x", "zw", "alpha"), (0, "h", "zw", "alpha"), (2, "b", "zb", "beta")):
        for gate, letter in enumerate("ijfo"):
            scope, index = f"hyper_{letter}{target}", 4 * part + gate
            places[f"{scope}/{z}/super_linear_w"] = ReleasedArray("cells.0.embeddings.weight", index, 12)
            if target != "b":
                places[f"{scope}/{z}/super_linear_b"] = ReleasedArray("cells.0.embeddings.bias", index, 8)
            places[f"{scope}/{scales}/super_linear_w"] = ReleasedArray("cells.0.row_scales.weight", index, 12)
    return places


def _scope_and_kind(arrays: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the scope in front of the cell's own names, and whether the cell is a HyperLSTM.

    The pair that explains most of the names wins, so that one missing or unknown name is reported as just that.
    The LSTM comes first to win a tie: its names could be those of a HyperLSTM's inner LSTMCell.
    """
    explained: Counter[tuple[str, bool]] = Counter()
    for is_hyper in (False, True):
        own_names = released_arrays(is_hyper, layer_norm=True)
        for name in arrays:
            scopes = {name.removesuffix(own) for own in own_names if name == own or name.endswith("/" + own)}
            explained.update((scope, is_hyper) for scope in scopes)
    if not explained:
        raise UserError(
            f"None of the names ({', '.join(sorted(arrays)) or 'there are none'}) belongs to a released "
            "LSTMCell or HyperLSTMCell; give a mapping with names such as W_xh, W_hh_i and bias."
        )
    return explained.most_common(1)[0][0]
