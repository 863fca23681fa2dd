"""The one training loop, for every task.

A step is a pure function of the checkpointed state and the step's number: the batch, the learning rate and the random
numbers of dropout derive from (seed, step). A run that is interrupted anywhere and resumed is therefore bitwise
identical to one that is not.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training import checkpoint
from training.distributed import Processes, synchronise_batch_norm
from training.precision import autocast
from training.run_directory import RunDirectory


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to look, all in optimizer steps.

    Raises:
        ValueError: a number below one.
    """

    steps: int
    validate_every: int
    checkpoint_every: int
    log_every: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"budget.{name} is {value!r}; it must be a whole number of at least 1.")


class NonFiniteLoss(ValueError):
    """The loss or a gradient became infinite or not a number."""


class Interrupted(Exception):
    """A signal asked the run to stop; it has saved a checkpoint."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass
class State:
    """What a step changes besides the main network and the optimizer."""

    window: Tensor  # sums of loss and gradient norm since the last logged row, float64 [2], on the device
    carried: Any = None  # the task's state between batches
    step: int = 0  # optimizer steps done
    window_steps: int = 0
    best: dict[str, float] | None = None  # {"step": ..., metric: ...} of the best validation


@dataclass
class Trainer:
    """One training run: `train` takes it to its last step, from the first or where `restore` put it; `test` follows.

    Args:
        task: see training/tasks.py; on its device.
        splits: has `train.batch(step)`, `train.steps_per_epoch`, `train.examples_per_step` (images, or characters),
            and `validation` and the values of `test` with `evaluation_batches()`.
        optimizer: over the task's parameters.
        learning_rate: the rate at a step, counted from zero.
        gradient_clip: the largest norm of the whole gradient, or None.
        budget: steps to train, and intervals.
        seed: of dropout, together with the step and the process's rank.
        precision: torch.bfloat16 for autocast, or torch.float32.
        compile_task: whether to compile the task.
        sync_batch_norm: with several processes, whether batch norm covers the global batch.
        processes: this process and the others.
        run: the run directory, in the first process; None in the others.
        session: facts about this process, kept in the run directory.
        logger: see training/logger.py; gets the rows of metrics.jsonl, with the speed added.
    """

    task: nn.Module
    splits: Any
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    gradient_clip: float | None
    budget: Budget
    seed: int
    precision: torch.dtype
    compile_task: bool
    sync_batch_norm: bool
    processes: Processes
    run: RunDirectory | None
    session: Mapping[str, Any]
    logger: Any

    def __post_init__(self) -> None:
        processes, device = self.processes, self.processes.device
        if processes.world_size > 1 and self.sync_batch_norm:
            self.task = synchronise_batch_norm(self.task, device)
        if self.compile_task:
            self.task.compile()
        self.objective: Callable = self.task
        if processes.world_size > 1:
            self.objective = DistributedDataParallel(self.task, [device.index] if device.type == "cuda" else None)
        self.autocast = autocast(self.precision, device)
        self.parameters = list(self.task.parameters())
        self.state = State(window=torch.zeros(2, dtype=torch.float64, device=device))

    def train(self) -> None:
        """Train up to the budget's last step; keep the main network that is best on validation.

        Raises:
            NonFiniteLoss: the checkpoint from before it is kept.
            Interrupted: by SIGINT or SIGTERM, after saving a checkpoint.
        """
        state, budget, train_split = self.state, self.budget, self.splits.train
        self.first_step = state.step
        if state.step == 0:
            self._save()  # so that there is a checkpoint to go back to, whatever happens in the first steps
        progress = _progress_bar(budget.steps, state.step, self.processes.is_first)
        clock, clock_step = time.monotonic(), state.step
        self.task.train()
        with _stop_signals() as stop_signal:
            while state.step < budget.steps:
                self._step()
                progress.update()
                is_last = state.step == budget.steps
                log = is_last or state.step % budget.log_every == 0
                validate = is_last or state.step % budget.validate_every == 0
                save = is_last or state.step % budget.checkpoint_every == 0
                stop = False
                if self.processes.world_size == 1 or log:  # several processes have to agree, which costs them a wait
                    stop = self.processes.any(stop_signal() is not None)
                if not (log or validate or save or stop):
                    continue
                self._check_finite()  # before anything is saved; waits for the device, so that the clock is right
                speed = train_split.examples_per_step * (state.step - clock_step) / (time.monotonic() - clock)

                row = self._training_row() if log else {}
                if validate:
                    row |= self._validate()
                    save |= state.best["step"] == state.step  # so that best.pt is at most one ahead of the checkpoint
                if row and self.processes.is_first:
                    row = _position(state.step, train_split.steps_per_epoch, train_split.examples_per_step) | row
                    self.run.append_metrics(row)
                    images = self.task.images() if validate and self.logger.shows_images else None
                    self.logger.log({**row, "speed/examples_per_second": speed}, images)
                    _show(progress, row, self.task.metric, speed, budget.steps)
                if save or stop:
                    self._save()
                clock, clock_step = time.monotonic(), state.step  # validating and saving are not part of the speed
                if stop and not is_last:
                    progress.close()
                    raise Interrupted(stop_signal() or signal.SIGTERM)
        progress.close()

    def test(self) -> dict[str, dict[str, float]]:
        """Evaluate the best main network on the test split and its subsets: {name: {"loss": ..., metric: ...}}."""
        if self.state.best is None:
            raise ValueError("The best network so far is lost, and no step is left; resume with a longer budget.")
        best = checkpoint.load(self.run.path / checkpoint.BEST) if self.processes.is_first else None
        self.task.main_network.load_state_dict(self.processes.broadcast(best)["main_network"])
        with self.autocast:
            return {
                name: self.task.evaluate(split.evaluation_batches(), self.processes.total)
                for name, split in self.splits.test.items()
            }

    def _step(self) -> None:
        """One optimizer step; a pure function of the state and the step's number."""
        state = self.state
        rate = self.learning_rate(state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(_dropout_seed(self.seed, state.step, self.processes.rank))

        with self.autocast:
            loss, state.carried = self.objective(self.splits.train.batch(state.step), state.carried)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient_norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, gradient_norm)
        self.optimizer.step()

        # The sums stay on the device: reading them would make the host wait at every step.
        state.window += torch.stack([loss.detach().double(), gradient_norm.double()])
        state.window_steps += 1
        state.step += 1

    def _training_row(self) -> dict[str, float]:
        """Means over the steps since the last logged row."""
        state = self.state
        sums = self.processes.total(state.window) / self.processes.world_size
        loss, gradient_norm = (sums / state.window_steps).tolist()
        state.window, state.window_steps = torch.zeros_like(state.window), 0
        rate = self.learning_rate(state.step - 1)
        return {"train/loss": loss, "train/gradient_norm": gradient_norm, "train/learning_rate": rate}

    def _validate(self) -> dict[str, float]:
        """Evaluate on the validation split, and keep the main network if it is the best so far."""
        state, metric = self.state, self.task.metric
        self.processes.share_buffers(self.task)
        with self.autocast:
            values = self.task.evaluate(self.splits.validation.evaluation_batches(), self.processes.total)
        best = math.nan if state.best is None else state.best[metric]
        if math.isnan(best) or values[metric] < best:
            state.best = {"step": state.step, metric: values[metric]}
            if self.processes.is_first:
                saved = {**state.best, "main_network": self.task.main_network.state_dict()}
                checkpoint.save_best(self.run.path, saved)
        return {f"validation/{name}": value for name, value in values.items()}

    def _save(self) -> None:
        state = self.state
        carried = self.processes.gather(_to(torch.device("cpu"), state.carried))
        windows = self.processes.gather(state.window.cpu())
        if not self.processes.is_first:
            return
        saved = {
            "step": state.step,
            "main_network": self.task.main_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "carried": carried,  # one entry a process
            "window": torch.stack(windows),  # [processes, 2]
            "window_steps": state.window_steps,
            "best": state.best,
            "metrics_size": self.run.metrics_size(),
        }
        checkpoint.save_checkpoint(self.run.path, saved)
        self.run.record_session(**self.session, first_step=self.first_step, last_step=state.step)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; nothing in the run directory changes.

        Raises:
            ValueError: the budget ends before it, or it carries the state of another number of processes.
        """
        carried, processes = saved["carried"], self.processes
        if saved["step"] > self.budget.steps:
            raise ValueError(
                f"The run has done {saved['step']} steps and budget.steps is {self.budget.steps}; resume it with "
                f"budget.steps={saved['step']} or more."
            )
        if len(carried) != processes.world_size and carried[0] is not None:
            raise ValueError(
                f"The run carried its state in {len(carried)} processes and cannot go on in {processes.world_size}; "
                f"resume it with {len(carried)}."
            )
        self.task.main_network.load_state_dict(saved["main_network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        own = carried[processes.rank % len(carried)]
        self.state.carried = _to(processes.device, own)
        windows = saved["window"].view(-1, 2)
        same_processes = len(windows) == processes.world_size
        self.state.window = (windows[processes.rank] if same_processes else windows.mean(dim=0)).to(processes.device)
        for name in ("step", "window_steps", "best"):
            setattr(self.state, name, saved[name])

    def _check_finite(self) -> None:
        """Raise NonFiniteLoss if the sums since the last row, and so a loss or gradient norm, are not finite."""
        if self.processes.any(not bool(torch.isfinite(self.state.window).all())):
            raise NonFiniteLoss(
                f"The loss or its gradient was not finite in the {self.state.window_steps} steps up to step "
                f"{self.state.step}; the last checkpoint is from before that. Try a lower learning rate, "
                "optimizer.gradient_clip=1.0 or precision=float32."
            )


def _position(step: int, steps_per_epoch: int, examples_per_step: int) -> dict[str, float]:
    """The three x axes on which runs are compared."""
    return {"step": step, "epoch": step / steps_per_epoch, "examples": step * examples_per_step}


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    # PyTorch's CPU generator uses the low 32 bits; odd multipliers keep neighbouring seeds and steps apart there.
    return (seed * 0x9E3779B1 + step * 0x85EBCA6B + rank * 0xC2B2AE35) % 2**32


def _to(device: torch.device, carried: Any) -> Any:
    if carried is None or isinstance(carried, Tensor):
        return carried if carried is None else carried.to(device)
    return tuple(tensor.to(device) for tensor in carried)


def _progress_bar(steps: int, first_step: int, is_first: bool) -> tqdm:
    # disable=None: a bar on a terminal, nothing in a file or a pipe
    return tqdm(total=steps, initial=first_step, unit="step", disable=None if is_first else True, smoothing=0.05)


def _show(progress: tqdm, row: dict[str, Any], metric: str, speed: float, steps: int) -> None:
    """Put a row beside the progress bar; without a terminal, print validations as lines."""
    shown = {"loss": f"{row['train/loss']:.4f}"} if "train/loss" in row else {}
    if "train/learning_rate" in row:
        shown["rate"] = f"{row['train/learning_rate']:.2g}"
    if f"validation/{metric}" in row:
        shown[f"validation {metric}"] = f"{row[f'validation/{metric}']:.3f}"
    shown["examples/s"] = f"{speed:.0f}"
    if not progress.disable:
        progress.set_postfix(shown)
    elif f"validation/{metric}" in row:
        described = ", ".join(f"{name} {value}" for name, value in shown.items())
        print(f"step {row['step']}/{steps}: {described}", flush=True)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int | None]]:
    """Within this context, SIGINT and SIGTERM are noted instead of ending the process; a second one ends it."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        print(f"{signal.Signals(number).name}: saving a checkpoint before stopping.", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
