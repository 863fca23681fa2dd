"""The paper's dynamic hypernetworks (section 3.2), and the LSTMs that they are compared with.

See layer.py for the interface and the loop over time, hyperlstm.py for Eq. 10-13 and hyperrnn.py for Eq. 4-8.
"""

from hypernets.recurrent.hyperlstm import HyperLSTM
from hypernets.recurrent.hyperrnn import HyperRNN
from hypernets.recurrent.layer import detach_state, run_cell
from hypernets.recurrent.lstm import LSTM
from hypernets.recurrent.released_cell import load_released_cell

__all__ = ["LSTM", "HyperLSTM", "HyperRNN", "detach_state", "load_released_cell", "run_cell"]
