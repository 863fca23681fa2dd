"""The character model: one-hot input, dropout, the vocabulary it keeps, and the configurations that describe it."""

from functools import partial
from pathlib import Path

import hydra
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypernets import LSTM, HyperLSTM, HyperRNN, UserError
from models.character_model import CharacterModel, build

CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")
VOCABULARY = "\n abcde"
LAYERS = [
    partial(LSTM, hidden_size=5, num_layers=2),
    partial(HyperLSTM, hidden_size=5, hyper_size=3, embedding_size=2),
    partial(HyperRNN, hidden_size=5, hyper_size=3, embedding_size=2),
]


class Recorder(nn.Module):
    """A layer that keeps what it was given and returns ones."""

    hidden_size = 6

    def __init__(self, input_size):
        super().__init__()

    def forward(self, input, state=None):
        self.input = input
        return torch.ones(*input.shape[:2], self.hidden_size), state


@pytest.mark.parametrize("make_layer", LAYERS)
def test_logits(make_layer):
    torch.manual_seed(0)
    model = CharacterModel(make_layer, VOCABULARY)
    ids = torch.randint(len(VOCABULARY), (6, 3))
    logits, _ = model(ids)
    one_hot = F.one_hot(ids, len(VOCABULARY)).float()
    torch.testing.assert_close(logits, model.output(model.recurrent_layer(one_hot)[0]))


def test_input_dropout_drops_whole_symbols_and_scales_the_rest():
    model = CharacterModel(Recorder, VOCABULARY, input_dropout=0.25)
    ids = torch.randint(len(VOCABULARY), (50, 40))
    model.eval()(ids)
    assert torch.equal(model.recurrent_layer.input, ids)
    model.train()(ids)
    given = model.recurrent_layer.input
    assert given.shape == (50, 40, len(VOCABULARY))
    dropped = given.sum(-1) == 0
    assert 0.2 < dropped.float().mean() < 0.3
    expected = F.one_hot(ids, len(VOCABULARY)) / 0.75 * ~dropped[..., None]
    torch.testing.assert_close(given, expected)


def test_output_dropout_in_training_only():
    model = CharacterModel(Recorder, VOCABULARY, output_dropout=0.5)
    ids = torch.zeros(20, 10, dtype=torch.int64)
    assert model.eval()(ids)[0].unique(dim=0).shape[0] == 1
    assert model.train()(ids)[0].unique(dim=0).shape[0] == 20
    assert torch.equal(model.recurrent_layer.input, ids)  # not dense without input dropout


@pytest.mark.parametrize("name", ["input_dropout", "output_dropout"])
def test_a_probability_of_keeping_given_as_dropout_is_refused(name):
    with pytest.raises(UserError, match=name):
        CharacterModel(Recorder, VOCABULARY, **{name: 1.0})


def test_vocabulary_is_saved_and_another_one_refused():
    make_layer = LAYERS[0]
    model = CharacterModel(make_layer, "abé\udcc3")
    assert model.vocabulary == "abé\udcc3"
    saved = model.state_dict()
    CharacterModel(make_layer, "abé\udcc3").load_state_dict(saved)
    for other in ("abcd", "abcde"):
        with pytest.raises(UserError, match=f"{other!r}; use the text that it was trained on"):
            CharacterModel(make_layer, other).load_state_dict(saved)


# Configurations


def composed(*overrides):
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        return hydra.compose("train", list(overrides))


def built(settings):
    with torch.device("meta"):
        return build(settings.main_net, settings.hypernet, VOCABULARY)


# Experiment: drop probabilities (input, output, recurrent, hyper recurrent), layer norm.
ROWS = {
    "table3/lstm_1000": ((0.1, 0.1, 0.1), False),
    "table3/lstm_1250": ((0.1, 0.1, 0.1), False),
    "table3/2_layer_lstm_1000": ((0.1, 0.1, 0.1), False),
    "table3/layer_norm_lstm_1000": ((0.1, 0.1, 0.1), True),
    "table3/hyperlstm_1000": ((0.1, 0.1, 0.1, 0.0), False),
    "table3/layer_norm_hyperlstm_1000": ((0.1, 0.1, 0.1, 0.0), True),
    "table3/layer_norm_hyperlstm_1000_large_embedding": ((0.15, 0.15, 0.15, 0.0), True),
    "table3/2_layer_layer_norm_hyperlstm_1000": ((0.2, 0.2, 0.2, 0.0), True),
    "table4/lstm_1800": ((0.0, 0.0, 0.0), False),
    "table4/lstm_2000": ((0.0, 0.0, 0.0), False),
    "table4/layer_norm_lstm_1800": ((0.0, 0.0, 0.1), True),
    "table4/hyperlstm_1800": ((0.0, 0.0, 0.1, 0.0), False),
    "table4/layer_norm_hyperlstm_1800": ((0.0, 0.0, 0.1, 0.0), True),
    "table4/layer_norm_hyperlstm_2048": ((0.0, 0.0, 0.15, 0.15), True),
}


@pytest.mark.parametrize("experiment", ROWS)
def test_experiments_are_the_papers_networks_and_protocol(experiment):
    dropout, layer_norm = ROWS[experiment]
    settings = composed(f"experiment={experiment}")
    model = built(settings)
    cell = model.recurrent_layer.cells[-1]
    hyper = (cell.hyper_cell.recurrent_dropout,) if hasattr(cell, "hyper_cell") else ()
    assert (model.input_dropout, model.output_dropout, cell.recurrent_dropout, *hyper) == dropout
    assert cell.layer_norm is layer_norm
    length = 300 if "2048" in experiment else 250 if "table4" in experiment else 100
    assert settings.dataset.sequence_length == length


@pytest.mark.parametrize(
    ("main_net", "hypernet", "choice"),
    [
        ("lstm", "static", "hypernet=none or hypernet=hyperlstm"),
        ("rnn", "none", "hypernet=hyperrnn"),
        ("wide_resnet", "none", "main_net=lstm"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(main_net, hypernet, choice):
    with pytest.raises(UserError, match=choice):
        built(composed(f"main_net={main_net}", f"hypernet={hypernet}"))


def test_a_setting_of_another_layer_is_refused():
    with pytest.raises(UserError, match="hidden_sizes"):
        built(composed("main_net=lstm", "hypernet=none", "+main_net.hidden_sizes=8"))
