"""Hypernetworks (Ha, Dai, Le, arXiv 1609.09106): networks that generate the weights of a main network.

A *static* hypernetwork (section 3.1) generates the kernels of a convolutional main network from learned embeddings; a
*dynamic* one (section 3.2) is itself recurrent and changes the weights of a recurrent main network at every time step.
"""

from hypernets.dynamic import Embeddings, RowScales
from hypernets.generated_convolutions import GeneratedConvolutions
from hypernets.hyperlstm import HyperLSTM, HyperLSTMState
from hypernets.hyperrnn import HyperRNN, HyperRNNState
from hypernets.kernels import KernelShape, LearnedKernels
from hypernets.lstm import LSTM, LSTMState
from hypernets.recurrent import detach_state
from hypernets.released_cell import load_released_cell
from hypernets.static import StaticHypernetwork

__all__ = [
    "LSTM",
    "Embeddings",
    "GeneratedConvolutions",
    "HyperLSTM",
    "HyperLSTMState",
    "HyperRNN",
    "HyperRNNState",
    "KernelShape",
    "LSTMState",
    "LearnedKernels",
    "RowScales",
    "StaticHypernetwork",
    "detach_state",
    "load_released_cell",
]
