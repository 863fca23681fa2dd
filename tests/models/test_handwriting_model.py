"""The handwriting model: its outputs, what it keeps, and the configurations that describe it."""

from functools import partial
from pathlib import Path

import hydra
import pytest
import torch

from hypernets import LSTM, UserError
from models.handwriting_model import HandwritingModel, build

CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")
MEAN, STD = [8.0, 0.5], [40.0, 30.0]


def small_model(**dropout):
    torch.manual_seed(0)
    return HandwritingModel(partial(LSTM, hidden_size=5, num_layers=2), MEAN, STD, **dropout)


def test_outputs_are_in_float32_under_autocast():
    model, offsets = small_model(), torch.randn(6, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = model(offsets)
        hidden, _ = model.recurrent_layer(offsets)
    assert outputs.shape == (6, 3, 121) and outputs.dtype == torch.float32
    assert torch.equal(outputs, model.output(hidden.float()))


def test_dropout_of_the_input_drops_whole_steps():
    model, offsets = small_model(input_dropout=0.25), torch.ones(50, 40, 3)
    assert torch.equal(model.eval().dropped(offsets), offsets)
    given = model.train().dropped(offsets)
    assert torch.equal(given.amin(-1), given.amax(-1)) and 0.2 < (given == 0).float().mean() < 0.3


def test_scale_of_the_offsets_is_saved():
    saved = small_model().state_dict()
    other = HandwritingModel(partial(LSTM, hidden_size=5, num_layers=2), [0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(saved)
    assert other.offset_mean.tolist() == MEAN and other.offset_std.tolist() == STD


def composed(*overrides):
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        return hydra.compose("train", list(overrides))


def built(settings):
    with torch.device("meta"):
        return build(settings.main_net, settings.hypernet, MEAN, STD)


ROWS = {  # units, layers, whether there is layer norm, whether there is a hyper cell
    "lstm_900": (900, 1, False, False),
    "lstm_1000": (1000, 1, False, False),
    "3_layer_lstm_400": (400, 3, False, False),
    "2_layer_lstm_650": (650, 2, False, False),
    "layer_norm_lstm_900": (900, 1, True, False),
    "layer_norm_lstm_1000": (1000, 1, True, False),
    "layer_norm_hyperlstm_900": (900, 1, True, True),
    "hyperlstm_900": (900, 1, False, True),
}


@pytest.mark.parametrize("row", ROWS)
def test_experiments_are_the_papers_networks(row):
    model = built(composed(f"experiment=table5/{row}"))
    layer, cell = model.recurrent_layer, model.recurrent_layer.cells[-1]
    is_hyper = hasattr(cell, "hyper_cell")
    assert (layer.hidden_size, layer.num_layers, cell.layer_norm, is_hyper) == ROWS[row]
    assert (model.input_dropout, model.output_dropout, cell.recurrent_dropout) == (0.0, 0.05, 0.05)
    if is_hyper:
        assert (cell.hyper_cell.hidden_size, cell.hyper_cell.recurrent_dropout) == (128, 0.0)
        assert cell.row_scales.weight.shape == (3, 4, 4, 900)


def test_a_network_that_reads_no_sequences_is_refused():
    with pytest.raises(UserError, match="main_net=lstm or main_net=rnn"):
        built(composed("main_net=wide_resnet", "hypernet=none"))
