"""A training step as a CUDA graph: the same numbers as without one.

On the CPU, `Recording` takes the place of the graph: it lists the operations and their tensors, and `replay` runs them
again on the same tensors, without the Python code around them.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from data.strokes import StrokeWindow
from hypernets import LSTM, HyperDNN, HyperLSTM, StaticHypernetwork, tileable_kernels
from hypernets.recurrent import recurrence
from hypernets.recurrent.layer import RecurrentLayer
from models.character_model import CharacterModel
from models.handwriting_model import HandwritingModel
from models.wide_resnet import WideResNet
from training import captured_pass
from training.captured_pass import WARM_UP, CapturedPass
from training.optimizer import build_optimizer
from training.tasks.character_modelling import CharacterModelling
from training.tasks.handwriting import Handwriting
from training.tasks.image_classification import ImageClassification

OPTIMIZERS = (
    {"kind": "sgd", "momentum": 0.9},
    {"kind": "adam", "betas": [0.9, 0.999]},
    {"kind": "muon", "momentum": 0.9, "betas": [0.9, 0.999], "adam_rate": 0.2},
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Recording(TorchDispatchMode):
    """Operations to replay. Recording a graph runs nothing, so what they change meanwhile is undone."""

    def __init__(self):
        super().__init__()
        self.operations, self.changed = [], []
        self.random_state = torch.get_rng_state()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.changed += [(tensor, tensor.detach().clone()) for tensor in written(operation, args, kwargs)]
        results = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, results))
        return results

    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in reversed(self.changed):
            tensor.detach().copy_(before)
        torch.set_rng_state(self.random_state)

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():  # where they were recorded
            for operation, args, kwargs, results in self.operations:
                if operation._schema.is_mutable:
                    operation(*args, **kwargs)
                elif not any(argument.alias_info for argument in operation._schema.arguments):  # no view
                    fill(results, operation(*args, **kwargs))


def written(operation, args, kwargs):
    if operation is torch.ops.aten.native_batch_norm.default:  # whose schema does not say so
        return args[3:5]
    arguments = zip(operation._schema.arguments, args, strict=False)
    named = ((argument, kwargs.get(argument.name)) for argument in operation._schema.arguments if argument.kwarg_only)
    writes = [value for argument, value in (*arguments, *named) if argument.alias_info and argument.alias_info.is_write]
    return [value for value in writes if isinstance(value, Tensor)]


def fill(places, results):
    if isinstance(places, Tensor):
        places.copy_(results)
    elif isinstance(places, (tuple, list)):
        for place, result in zip(places, results, strict=True):
            fill(place, result)


@pytest.fixture
def recordings(monkeypatch):
    """Record on the CPU; the list has an entry for each recording."""
    made = []

    def record(compute):
        with Recording() as recording:
            results = compute()
        made.append(recording)
        return results, recording.replay

    monkeypatch.setattr(captured_pass, "record", record)
    monkeypatch.setattr(captured_pass, "on_side_stream", lambda compute: compute())
    monkeypatch.setattr(recurrence, "has_onednn", lambda tensor: False)  # its own layouts cannot be copied
    return made


def images():
    torch.manual_seed(0)
    hypernetwork = partial(StaticHypernetwork, embedding_size=4)
    network = HyperDNN(WideResNet(depth=10), hypernetwork, choose=tileable_kernels(3))
    return ImageClassification(network, kernel_decay=1e-3)


def text():
    torch.manual_seed(0)
    layer = partial(HyperLSTM, hidden_size=16, hyper_size=8, recurrent_dropout=0.2, layer_norm=True)
    return CharacterModelling(CharacterModel(layer, "abcdefgh", input_dropout=0.1, output_dropout=0.1))


def strokes():
    torch.manual_seed(0)
    layer = partial(LSTM, hidden_size=16, recurrent_dropout=0.2)
    return Handwriting(HandwritingModel(layer, mean=[0.0, 0.0], std=[1.0, 1.0], output_dropout=0.1))


def image_batch(step, size=16):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, size, size, generator=generator), torch.randint(10, (4,), generator=generator)


def text_batch(step, epoch=9):
    ids = torch.randint(8, (6, 3), generator=torch.Generator().manual_seed(step))
    return ids[:-1], ids[1:], step % epoch == 0


def stroke_batch(step):
    """Lines of other lengths in every batch: the number of counted steps differs."""
    rows = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(step))
    rows[..., 2] = (rows[..., 2] > 0).float()
    counted = torch.arange(6)[:, None] < torch.tensor([6, 4, 1 + step % 6])
    return StrokeWindow(rows[:-1], rows[1:], counted, is_first=True, predictions=float(counted.sum()))


def train(task, batches, captured, device="cpu"):
    """The losses, and the weights and statistics at the end."""
    task = task.to(device).train()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.05, momentum=0.9)

    def compute(batch, carried):
        optimizer.zero_grad(set_to_none=True)
        loss, carried = task(batch, carried)
        loss.backward()
        return loss.detach(), carried

    differentiate = CapturedPass(compute, list(task.parameters())) if captured else compute
    losses, carried = [], None
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        batch = tree_map_only(Tensor, lambda part: part.to(device), batch)
        loss, carried = differentiate(batch, carried)
        nn.utils.clip_grad_norm_(task.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.clone())
    return losses, task.state_dict()


def assert_same(expected, trained, **tolerance):
    torch.testing.assert_close(trained, expected, **(tolerance or {"rtol": 0, "atol": 0}))


def test_carried_state_and_dropout(recordings):
    """At an epoch's beginning comes a batch of another kind, which a graph cannot replay."""
    batches = [text_batch(step) for step in range(21)]
    trained = train(text(), batches, captured=True)
    assert_same(train(text(), batches, captured=False), trained)  # second, in case the first had changed a batch
    assert len(recordings) == 1  # after the first step, which carries no state, and three more


def test_lines_of_other_lengths(recordings):
    batches = [stroke_batch(step) for step in range(12)]
    trained = train(strokes(), batches, captured=True)
    assert_same(train(strokes(), batches, captured=False), trained)  # second, in case the first had changed a batch
    assert len(recordings) == 1


def test_batch_norm_and_images_of_another_size(recordings):
    batches = [image_batch(step, size=16 if step < 8 else 24) for step in range(16)]
    trained = train(images(), batches, captured=True)
    assert_same(train(images(), batches, captured=False), trained)  # second, in case the first had changed a batch
    assert len(recordings) == 2


def test_numbers_that_differ_from_batch_to_batch(recordings):
    weight = nn.Parameter(torch.ones(2))

    def compute(batch, carried):
        weight.grad = None
        loss = (weight * batch[0]).sum() / batch[1]
        loss.backward()
        return loss.detach(), carried

    differentiate = CapturedPass(compute, [weight])
    for step in range(8):
        loss, _ = differentiate((torch.tensor([1.0, 2.0]), 1.0 + step), None)
        assert loss.item() == pytest.approx(3 / (1 + step))
        torch.testing.assert_close(weight.grad, torch.tensor([1.0, 2.0]) / (1 + step))
    assert len(recordings) == 1


def test_a_kind_is_recorded_only_after_several_in_a_row(recordings):
    differentiate = CapturedPass(lambda batch, carried: (batch.sum(), None), [nn.Parameter(torch.ones(1))])
    for step in range(4 * WARM_UP):
        length = 1 + step % 2
        assert differentiate(torch.ones(length), None)[0] == length
    assert not recordings


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result the host has to read before it can go on."""

    refused = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal"}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        assert name not in self.refused, f"a device would be waited for in {name}"
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda settings: settings["kind"])
@pytest.mark.parametrize("name", ["images", "text", "strokes"])
def test_a_step_does_not_wait_for_the_device(monkeypatch, name, optimizer):
    task = {"images": images, "text": text, "strokes": strokes}[name]()
    batches = {"images": image_batch, "text": text_batch, "strokes": stroke_batch}[name]
    optimizer = build_optimizer(task, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    # These read ids on the CPU only.
    monkeypatch.setattr(RecurrentLayer, "_check_input", lambda layer, input: None)
    monkeypatch.setattr(F, "one_hot", lambda ids, classes: (ids[..., None] == torch.arange(classes)).long())
    carried = None
    for step in range(2):
        batch = batches(step)
        with NoWaiting():
            optimizer.zero_grad(set_to_none=True)
            loss, carried = task(batch, carried)
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in task.parameters()])
            nn.utils.clip_grads_with_norm_(task.parameters(), 1.0, norm)
            optimizer.step()


def test_waiting_is_noticed():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(1).sum().item()


@needs_gpu
@pytest.mark.parametrize("name", ["images", "text", "strokes"])
def test_on_a_gpu(name):
    task = {"images": images, "text": text, "strokes": strokes}[name]
    batches = {"images": image_batch, "text": text_batch, "strokes": stroke_batch}[name]
    batches = [batches(step) for step in range(15)]
    expected = train(task(), batches, captured=False, device="cuda")
    trained = train(task(), batches, captured=True, device="cuda")
    assert_same(expected, trained, rtol=1e-3, atol=1e-4)  # sums in another order
