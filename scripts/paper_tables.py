"""The tables of the paper: the figures that it prints, and our experiment for each row.

Figure 8 counts as one of them: it comes with two accuracies, which are errors here.
"""

from typing import NamedTuple


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    dataset: str  # its name in configs/dataset/
    digits: int  # that the paper prints after the point
    split: str = "test"  # on which the paper reports them


class Row(NamedTuple):
    """A row of a table of the paper."""

    experiment: str  # its name in configs/experiment/, TABLE/ROW
    network: str  # as the paper calls it
    test: float  # as printed
    parameters: str  # as printed
    counted: int  # with the paper's sizes, by scripts/count_parameters.py
    steps: int | None = None  # of the paper's protocol, where it gives them
    validation: float | None = None  # where the paper prints it
    bleu: float | None = None  # of a translation, as printed

    @property
    def table(self) -> str:
        """The key of its table."""
        return self.experiment.partition("/")[0]

    def printed(self, value: float) -> str:
        """A metric with as many digits as the paper prints."""
        return f"{value:.{TABLES[self.table].digits}f}"


TABLES = {
    "table2": Table("Table 2: CIFAR-10, error in percent", "cifar10", 2),
    "table3": Table("Table 3: character-level Penn Treebank, bits per character", "ptb_char", 3),
    "table4": Table("Table 4: enwik8, bits per character", "enwik8", 3),
    "table5": Table("Table 5: IAM-OnDB handwriting, log-loss in nats per line", "iam_ondb", 0, "validation"),
    "table6": Table("Table 6: WMT'14 English to French, log perplexity", "wmt14", 3),
    "table7": Table("Table 7: MNIST, error in percent", "mnist", 2),
    "figure8": Table("Figure 8: MNIST, weights from their coordinates, error in percent", "mnist", 1),
}
LARGE = "layer_norm_hyperlstm_1000_large_embedding"
TWO_LAYERS = "2_layer_layer_norm_hyperlstm_1000"
ROWS = [
    Row("table2/wrn_40_1", "WRN-40-1", 6.73, "0.563 M", 562_762, steps=140_000),
    Row("table2/hyper_wrn_40_1", "Hyper WRN-40-1", 8.02, "0.097 M", 96_602, steps=672_000),
    Row("table2/wrn_40_2", "WRN-40-2", 5.66, "2.236 M", 2_235_530, steps=140_000),
    Row("table2/hyper_wrn_40_2", "Hyper WRN-40-2", 7.23, "0.148 M", 147_610, steps=672_000),
    Row("table3/lstm_1000", "LSTM, 1000", 1.312, "4.25 M", 4_254_050, validation=1.347),
    Row("table3/lstm_1250", "LSTM, 1250", 1.306, "6.57 M", 6_567_550, validation=1.340),
    Row("table3/2_layer_lstm_1000", "2-layer LSTM, 1000", 1.281, "12.26 M", 12_258_050, validation=1.312),
    Row("table3/layer_norm_lstm_1000", "Layer Norm LSTM, 1000", 1.267, "4.26 M", 4_264_050, validation=1.300),
    Row("table3/hyperlstm_1000", "HyperLSTM, 1000", 1.265, "4.91 M", 4_911_874, validation=1.296),
    Row("table3/layer_norm_hyperlstm_1000", "Layer Norm HyperLSTM, 1000", 1.250, "4.92 M", 4_923_154, validation=1.281),
    Row(f"table3/{LARGE}", "the same, large embedding", 1.233, "5.06 M", 5_085_682, validation=1.263),
    Row(f"table3/{TWO_LAYERS}", "2-layer Layer Norm HyperLSTM, 1000", 1.219, "14.41 M", 14_407_714, validation=1.245),
    Row("table4/lstm_1800", "LSTM, 1800", 1.470, "14.81 M", 14_812_405),
    Row("table4/lstm_2000", "LSTM, 2000", 1.461, "18.06 M", 18_058_205),
    Row("table4/layer_norm_lstm_1800", "Layer Norm LSTM, 1800", 1.402, "14.82 M", 14_830_405),
    Row("table4/hyperlstm_1800", "HyperLSTM, 1800", 1.391, "18.71 M", 18_708_213),
    Row("table4/layer_norm_hyperlstm_1800", "Layer Norm HyperLSTM, 1800", 1.353, "18.78 M", 18_728_773),
    Row("table4/layer_norm_hyperlstm_2048", "Layer Norm HyperLSTM, 2048", 1.340, "26.54 M", 26_541_773),
    Row("table5/lstm_900", "LSTM, 900", -1055, "3,363,421", 3_363_421),
    Row("table5/lstm_1000", "LSTM, 1000", -1048, "4,137,121", 4_137_121),
    Row("table5/3_layer_lstm_400", "3-layer LSTM, 400", -1068, "3,258,121", 3_258_121),
    Row("table5/2_layer_lstm_650", "2-layer LSTM, 650", -1135, "5,161,771", 5_161_771),
    Row("table5/layer_norm_lstm_900", "Layer Norm LSTM, 900", -1096, "3,372,421", 3_372_421),
    Row("table5/layer_norm_lstm_1000", "Layer Norm LSTM, 1000", -1106, "4,147,121", 4_147_121),
    Row("table5/layer_norm_hyperlstm_900", "Layer Norm HyperLSTM, 900", -1067, "3,951,461", 3_951_461),
    Row("table5/hyperlstm_900", "HyperLSTM, 900", -1162, "3,941,181", 3_941_181),
    Row("table6/gnmt_lstm_1024", "GNMT, LSTM, 8 layers of 1024", 1.027, "-", 276_665_600, bleu=38.95),
    Row("table6/gnmt_layer_norm_hyperlstm_1024", "the same, Layer Norm HyperLSTM", 0.993, "-", 307_528_960, bleu=40.03),
    Row("figure8/fully_connected", "fully connected, 784-256-10", 1.5, "-", 203_530),
    Row("figure8/coordinates", "the same, weights from coordinates", 6.5, "-", 3_627),
    Row("table7/mnist_convnet", "MNIST convnet", 0.72, "-", 21_210),
    Row("table7/hyper_mnist_convnet", "Hyper MNIST convnet", 0.76, "12,910", 12_910),
]
