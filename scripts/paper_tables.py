"""The rows of the paper's tables: what it prints, and the experiment of ours that is the row."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper.

    Attributes:
        experiment: its name in configs/experiment/.
        network: as the paper calls it.
        test, validation: the metrics as printed; validation only where the paper prints it.
        parameters: as printed.
        counted: parameters of the network with the paper's sizes, by scripts/count_parameters.py.
        steps: of the paper's protocol, where it gives them.
    """

    experiment: str
    network: str
    test: float
    parameters: str
    counted: int
    steps: int | None = None
    validation: float | None = None


ROWS = [
    Row("table2/wrn_40_1", "WRN-40-1", 6.73, "0.563 M", 562_762, 140_000),
    Row("table2/hyper_wrn_40_1", "Hyper WRN-40-1", 8.02, "0.097 M", 96_602, 672_000),
    Row("table2/wrn_40_2", "WRN-40-2", 5.66, "2.236 M", 2_235_530, 140_000),
    Row("table2/hyper_wrn_40_2", "Hyper WRN-40-2", 7.23, "0.148 M", 147_610, 672_000),
    Row("table3/lstm_1000", "LSTM, 1000 units", 1.312, "4.25 M", 4_254_050, validation=1.347),
    Row("table3/lstm_1250", "LSTM, 1250 units", 1.306, "6.57 M", 6_567_550, validation=1.340),
    Row("table3/2_layer_lstm_1000", "2-layer LSTM, 1000 units", 1.281, "12.26 M", 12_258_050, validation=1.312),
    Row("table3/layer_norm_lstm_1000", "Layer Norm LSTM, 1000 units", 1.267, "4.26 M", 4_264_050, validation=1.300),
    Row("table3/hyperlstm_1000", "HyperLSTM, 1000 units", 1.265, "4.91 M", 4_911_874, validation=1.296),
    Row(
        "table3/layer_norm_hyperlstm_1000",
        "Layer Norm HyperLSTM, 1000 units",
        1.250,
        "4.92 M",
        4_923_154,
        validation=1.281,
    ),
    Row(
        "table3/layer_norm_hyperlstm_1000_large_embedding",
        "Layer Norm HyperLSTM, 1000 units, large embedding",
        1.233,
        "5.06 M",
        5_085_682,
        validation=1.263,
    ),
    Row(
        "table3/2_layer_layer_norm_hyperlstm_1000",
        "2-layer Layer Norm HyperLSTM, 1000 units",
        1.219,
        "14.41 M",
        14_407_714,
        validation=1.245,
    ),
    Row("table4/lstm_1800", "LSTM, 1800 units", 1.470, "14.81 M", 14_812_405),
    Row("table4/lstm_2000", "LSTM, 2000 units", 1.461, "18.06 M", 18_058_205),
    Row("table4/layer_norm_lstm_1800", "Layer Norm LSTM, 1800 units", 1.402, "14.82 M", 14_830_405),
    Row("table4/hyperlstm_1800", "HyperLSTM, 1800 units", 1.391, "18.71 M", 18_708_213),
    Row("table4/layer_norm_hyperlstm_1800", "Layer Norm HyperLSTM, 1800 units", 1.353, "18.78 M", 18_728_773),
    Row("table4/layer_norm_hyperlstm_2048", "Layer Norm HyperLSTM, 2048 units", 1.340, "26.54 M", 26_541_773),
    Row("table7/mnist_convnet", "MNIST convnet", 0.72, "-", 21_210),
    Row("table7/hyper_mnist_convnet", "Hyper MNIST convnet", 0.76, "12,910", 12_910),
]


def experiment_of(command: str) -> str:
    """The experiment of a row that a command of train.py trains.

    Raises:
        ValueError: it is of no row.
    """
    found = re.search(r" experiment=(\S+)", command)
    if found is None or found[1] not in [row.experiment for row in ROWS]:
        raise ValueError(
            f"no row of a table has experiment={found[1] if found else '...'}, of the command {command!r}."
        )
    return found[1]
