"""Hypernetworks: networks that generate the weights of a main network.

`HyperDNN` puts generated weights into any network. `Hypernetwork` generates them in any of the ways of Chauhan et al.
(arXiv 2306.06955), from a condition or without one. `StaticHypernetwork`, `HyperLSTM` and `HyperRNN` are those of Ha,
Dai and Le (arXiv 1609.09106): convolution kernels from learned embeddings (section 3.1), and a recurrent hypernetwork
that changes the weights of a recurrent main network at every time step (section 3.2).
"""

from hypernets.bodies import AttentionBody, CNNBody, MLPBody, RNNBody
from hypernets.condition_check import ConditionCheck, does_the_condition_matter
from hypernets.errors import UserError
from hypernets.generation import GenerateChunkWise, GenerateComponentWise, GenerateMultiple, GenerateOnce
from hypernets.hyper_dnn import HyperDNN
from hypernets.hypernetwork import Hypernetwork
from hypernets.key_value_networks import KeyValueNetworks
from hypernets.output_regulariser import OutputRegulariser
from hypernets.recurrent import LSTM, HyperLSTM, HyperRNN, detach_state, load_released_cell
from hypernets.static import StaticHypernetwork, tileable_kernels

__version__ = "0.2.0"

__all__ = [
    "LSTM",
    "AttentionBody",
    "CNNBody",
    "ConditionCheck",
    "GenerateChunkWise",
    "GenerateComponentWise",
    "GenerateMultiple",
    "GenerateOnce",
    "HyperDNN",
    "HyperLSTM",
    "HyperRNN",
    "Hypernetwork",
    "KeyValueNetworks",
    "MLPBody",
    "OutputRegulariser",
    "RNNBody",
    "StaticHypernetwork",
    "UserError",
    "detach_state",
    "does_the_condition_matter",
    "load_released_cell",
    "tileable_kernels",
]
