"""Key-value networks in models that know nothing of them: PyTorch's transformer layers and a UNet of diffusers."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypernets import GenerateChunkWise, HyperDNN, Hypernetwork, KeyValueNetworks, MLPBody, UserError

WIDTH = 8  # of the context


def decoder(**changes):
    torch.manual_seed(0)
    return nn.TransformerDecoderLayer(WIDTH, nhead=2, dim_feedforward=16, batch_first=True, **changes)


def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def call(model, **condition):
    context = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    if not any(isinstance(module, nn.TransformerDecoderLayer) for module in model.modules()):
        images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        return model(images, torch.tensor([3, 7]), encoder_hidden_states=context, **condition).sample
    return model(torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2)), context, **condition)


def changed(network):
    """With random numbers in place of the zeros of the last layers."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.networks.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("make", [decoder, unet])
def test_starts_as_the_frozen_model_and_trains_only_the_networks(make):
    frozen = call(make().eval().requires_grad_(False))
    styled = KeyValueNetworks(make(), activation="relu").train()
    torch.testing.assert_close(call(styled), frozen, rtol=0, atol=0 if make is unet else 1e-6)
    optimizer = torch.optim.Adam([each for each in styled.parameters() if each.requires_grad], lr=0.01)
    before = copy.deepcopy(dict(styled.frozen_model.state_dict()))
    losses = []
    for _ in range(4):
        loss = (call(styled) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(parameter.grad.any() for parameter in styled.networks.parameters())
    assert all(torch.equal(value, before[name]) for name, value in styled.frozen_model.state_dict().items())
    styled.strength = 0
    assert torch.equal(call(styled), frozen)


def test_keys_and_values_come_from_contexts_of_their_own():
    layer = decoder().eval()
    styled = changed(KeyValueNetworks(decoder(), strength=0.5, activation="leakyrelu"))
    x, context = torch.randn(2, 3, WIDTH), torch.randn(2, 5, WIDTH)
    key, value = (styled.networks["8"][which].linear for which in ("key", "value"))

    def expected(query, *_, **__):
        changed_contexts = context + 0.5 * key(context), context + 0.5 * value(context)
        return nn.MultiheadAttention.forward(layer.multihead_attn, query, *changed_contexts, need_weights=False)

    layer.multihead_attn.forward = expected
    torch.testing.assert_close(styled(x, context), layer(x, context))
    assert not torch.allclose(styled(x, context), decoder().eval()(x, context))
    twin = copy.deepcopy(styled)
    changed_output = styled(x, context)
    with torch.no_grad():
        twin.networks["8"]["key"].linear[0].bias += 1
    assert torch.equal(styled(x, context), changed_output) and not torch.equal(twin(x, context), changed_output)


@pytest.mark.parametrize("make", [decoder, unet])
def test_file_of_the_web_ui_goes_out_and_comes_back(make, tmp_path):
    options = {
        "layer_structure": (1, 2, 0.5, 1),
        "activation": "swish",
        "layer_norm": True,
        "dropout": (0, 0.2, 0.1, 0),
    }
    styled = changed(KeyValueNetworks(make(), **options)).eval()
    torch.save(styled.web_ui_state("slanted", step=7), tmp_path / "slanted.pt")
    state = torch.load(tmp_path / "slanted.pt", weights_only=True)
    assert [key for key in state if isinstance(key, int)] == [WIDTH]
    assert (state["name"], state["step"], state["activation_func"]) == ("slanted", 7, "swish")
    assert state["dropout_structure"] == [0, 0.2, 0.1, 0] and state["use_dropout"] and state["last_layer_dropout"]
    assert list(state[WIDTH][0])[:4] == [f"linear.{place}" for place in ("0.weight", "0.bias", "2.weight", "2.bias")]
    assert state[WIDTH][0]["linear.8.weight"].shape == (WIDTH, WIDTH // 2)  # its place counts the dropouts before it
    # A width that is not in the model is left out; the decoder's self-attention has the width of its context, and the
    # web UI changes it, too.
    again = KeyValueNetworks.from_web_ui(make(), state | {999: state[WIDTH]}).eval()
    if make is unet:
        assert torch.equal(call(again), call(styled))
    else:
        both = KeyValueNetworks(make(), attention=lambda *_: True, **options).eval()
        both.networks.load_state_dict(styled.networks.state_dict())
        assert torch.equal(call(again), call(both)) and not torch.equal(call(again), call(styled))


def test_first_files_of_the_web_ui_are_read():
    """Half precision, two linear layers under their first names, and nothing said about how to build them."""
    layers = {"linear1": (16, 8), "linear2": (8, 16)}
    state = {f"{name}.weight": torch.randn(*size).half() / 4 for name, size in layers.items()}
    state |= {f"{name}.bias": torch.randn(size[0]).half() for name, size in layers.items()}
    styled = KeyValueNetworks.from_web_ui(unet(), {8: (state, state)})
    full = {name: value.float() for name, value in state.items()}
    x = torch.randn(3, WIDTH)
    hidden = F.linear(x, full["linear1.weight"], full["linear1.bias"])
    expected = x + F.linear(hidden, full["linear2.weight"], full["linear2.bias"])
    torch.testing.assert_close(styled.networks["8"]["value"](x, 1.0), expected)


@pytest.mark.parametrize(("said", "last"), [({}, nn.ReLU), ({"activate_output": False}, nn.Linear)])
def test_files_that_do_not_say_so_activate_the_output(said, last):
    sizes = {"linear.0": (2 * WIDTH, WIDTH), "linear.2": (WIDTH, 2 * WIDTH)}
    state = {f"{name}.weight": torch.randn(*size) for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    styled = KeyValueNetworks.from_web_ui(unet(), {WIDTH: (state, state), "activation_func": "relu"} | said)
    assert isinstance(styled.networks[f"{WIDTH}"]["key"].linear[-1], last)


OF_FILE = {WIDTH: ({}, {}), "use_dropout": True}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, []),
        ({"use_dropout": True}, [0.3]),
        ({"use_dropout": True, "last_layer_dropout": True}, [0.3, 0.3]),
        ({"use_dropout": True, "dropout_structure": [0, 0.1, 0.4, 0]}, [0.1, 0.4]),
        ({"use_dropout": False, "dropout_structure": [0, 0, 0, 0]}, []),
    ],
)
def test_dropout_is_where_the_file_says(said, expected):
    sizes = [WIDTH, 2 * WIDTH, WIDTH, WIDTH]
    layers = {"layer_structure": [1, 2, 1, 1], "activate_output": False}
    state, place = {}, 0
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        state |= {f"linear.{place}.weight": torch.randn(outputs, inputs), f"linear.{place}.bias": torch.randn(outputs)}
        place += 2 if index < len(expected) else 1
    styled = KeyValueNetworks.from_web_ui(unet(), {WIDTH: (state, state)} | layers | said)
    found = [module.p for module in styled.networks[f"{WIDTH}"]["key"].modules() if isinstance(module, nn.Dropout)]
    assert found == expected


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KeyValueNetworks(nn.Linear(2, 2)), "No attention of the model was chosen"),
        (lambda: KeyValueNetworks(decoder(), activation="square"), "activation is 'square'"),
        (lambda: KeyValueNetworks(decoder(), layer_norm="no"), "layer_norm is 'no'"),
        (lambda: KeyValueNetworks(decoder(), strength="1"), "strength is '1'"),
        (lambda: KeyValueNetworks(decoder(), layer_structure=(1, 2)), "begin and end with 1"),
        (lambda: KeyValueNetworks(decoder(), layer_structure=()), "begin and end with 1"),
        (lambda: KeyValueNetworks(decoder(), dropout=True), "dropout is True; .* each of the 3 sizes"),
        (lambda: KeyValueNetworks(decoder(), dropout=(0, 0.3)), "each of the 3 sizes"),
        (lambda: KeyValueNetworks(decoder(), dropout=(0, 1.5, 0)), "in dropout is 1.5"),
        (lambda: KeyValueNetworks(decoder(), dropout=(0, None, 0)), "in dropout is None"),
        (lambda: KeyValueNetworks(decoder(), layer_structure=(1, "2", 1)), "in layer_structure is '2'"),
        (lambda: KeyValueNetworks(decoder(), activation="glu"), "activation is 'glu'"),
        (lambda: KeyValueNetworks.from_web_ui(decoder(), OF_FILE | {"layer_structure": 3}), "layer_structure is 3"),
        (lambda: KeyValueNetworks.from_web_ui(decoder(), OF_FILE | {"activation_func": ["relu"]}), "activation is"),
        (lambda: KeyValueNetworks(decoder(), dropout=(0, 0.3, 0.3)), "begin and end with 0"),
        (lambda: KeyValueNetworks.from_web_ui(decoder(), {8: 1}), "no pair of networks for 8 features"),
        (lambda: KeyValueNetworks.from_web_ui(decoder(), {768: ()}), "contexts of 768 features, but .* reads 8"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_a_refused_file_leaves_the_model_as_it_is():
    model = decoder()
    state = KeyValueNetworks(decoder()).web_ui_state("style")
    with pytest.raises(UserError, match="networks for 8 features are not what the file says"):
        KeyValueNetworks.from_web_ui(model, state | {WIDTH: (state[WIDTH][0], {"linear.0.weight": torch.ones(2, 2)})})
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_transformer_with_a_padding_mask():
    """With nested tensors, PyTorch's encoder would hand the changed attention a kind of tensor that it refuses."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, nhead=2, dim_feedforward=16, batch_first=True)
    model, tokens = nn.TransformerEncoder(layer, num_layers=2).eval(), torch.randn(2, 5, WIDTH)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = model(tokens, src_key_padding_mask=padding)
        styled = KeyValueNetworks(model, attention=lambda *_: True)
        output = styled(tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(output[~padding], expected[~padding])
    assert not torch.allclose(changed(styled)(tokens, src_key_padding_mask=padding)[~padding], expected[~padding])


def test_fused_projections_are_refused():
    styled = KeyValueNetworks(unet())
    styled.frozen_model.fuse_qkv_projections()
    with pytest.raises(UserError, match=r"attn2 has fused projections, .* unfuse_qkv_projections\(\)"):
        call(styled)
    styled.frozen_model.unfuse_qkv_projections()
    call(styled)


class ScaledLinear(nn.Linear):
    """A projection that takes a second argument, as in older versions of diffusers."""

    def forward(self, x, scale=1.0):
        return scale * super().forward(x)


def test_other_arguments_of_a_projection_are_kept():
    model = unet()
    attention = next(module for name, module in model.named_modules() if name.endswith("attn2"))
    attention.to_k = ScaledLinear(WIDTH, attention.to_k.out_features)
    styled, x = KeyValueNetworks(model), torch.randn(3, WIDTH)
    assert torch.equal(attention.to_k(x, 2.0), 2 * attention.to_k(x)) and styled.strength == 1


@pytest.mark.parametrize("make", [decoder, unet])
def test_one_hypernetwork_makes_the_networks_of_many_styles(make):
    """What generates the key-value networks is a hypernetwork in the sense of this library."""
    chunks = partial(Hypernetwork, generation=GenerateChunkWise(50), body=MLPBody(16), condition_size=3)
    styles = HyperDNN(KeyValueNetworks(make()), chunks, choose=lambda name, _: name.startswith("networks."))
    conditions = torch.randn(2, 3)
    outputs = [call(styles, condition=condition) for condition in conditions]
    assert not torch.allclose(*outputs)
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad.any() for parameter in styles.hypernetwork.parameters())
    assert all(parameter.grad is None for parameter in styles.main_network.parameters())
    with torch.no_grad():
        assert torch.equal(call(styles.export(conditions[1])), call(styles, condition=conditions[1]))
