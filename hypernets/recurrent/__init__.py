"""The paper's dynamic hypernetworks (section 3.2), and the LSTMs that they are compared with.

See layer.py for the interface, recurrence.py for the order of the computation over time, hyperlstm.py for Eq. 10-13
and hyperrnn.py for Eq. 4-8.
"""

from hypernets.recurrent.hyperlstm import HyperLSTM
from hypernets.recurrent.hyperrnn import HyperRNN
from hypernets.recurrent.layer import RecurrentLayer, detach_state
from hypernets.recurrent.lstm import LSTM, LSTMState
from hypernets.recurrent.recurrence import run_cell
from hypernets.recurrent.released_cell import load_released_cell

__all__ = [
    "LSTM",
    "HyperLSTM",
    "HyperRNN",
    "LSTMState",
    "RecurrentLayer",
    "detach_state",
    "load_released_cell",
    "run_cell",
]
