"""The one training loop, for every task.

A step is a pure function of the checkpointed state and the step's number: the batch, the learning rate and the random
numbers of dropout follow from (seed, step). A run that is interrupted anywhere and resumed is therefore bitwise
identical to one that is not, at least on a CPU.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hypernets import UserError
from training import checkpoint
from training.captured_pass import CapturedPass
from training.compilation import says_how_to_compile
from training.distributed import Processes, synchronise_batch_norm
from training.logger import Logger
from training.optimizer import Together
from training.pictures import write_picture
from training.precision import autocast
from training.run import Run
from training.signals import Interrupted, StopSignals
from training.task import Metric, Splits, Task

AGREE_EVERY = 10  # steps; several processes ask each other at least this often whether one was told to stop


@dataclass(frozen=True)
class Budget:
    """How long to train, and how often to validate, save and log, all in optimizer steps."""

    steps: int
    validate_every: int
    checkpoint_every: int
    log_every: int


class NonFinite(UserError):
    """A loss, a gradient or a weight became infinite or not a number."""


@dataclass
class State:
    """What a step changes and a checkpoint holds, besides the network and the optimizer."""

    window: Tensor  # sums of loss and gradient norm since the last logged row, float64 [2], on the device
    carried: Any = None  # the task's state between batches
    step: int = 0  # optimizer steps done
    looked_at: int = 0  # the step after which the run was last looked at: logged, validated and saved as is due
    window_steps: int = 0
    best: dict[str, float] | None = None  # {"step": ..., metric: ...} of the best validation


@dataclass
class Trainer:
    """One training run: `begin`, then `run`, which trains to the last step and tests the best network."""

    task: Task  # on its device
    splits: Splits
    optimizer: torch.optim.Optimizer | Together
    learning_rate: Callable[[int], float]  # at a step, counted from zero
    gradient_clip: float | None  # the largest norm of the whole gradient
    budget: Budget
    seed: int  # of dropout, together with the step and the process's rank
    precision: torch.dtype  # torch.bfloat16 for autocast, or torch.float32
    compile_task: bool
    sync_batch_norm: bool  # with several processes, whether batch norm covers the global batch
    processes: Processes
    directory: Run | None  # None in every process but the first
    session: Mapping[str, Any]  # facts about this process, kept in the run directory
    open_logger: Callable[[], Logger]  # called once the directory holds exactly the rows that the run goes on from

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
        self.differentiate: Callable = self._differentiate
        if self.compile_task and says_how_to_compile(self.task) and device.type == "cuda" and processes.world_size == 1:
            self.differentiate = CapturedPass(self._differentiate, self.parameters)
        self.state = State(window=torch.zeros(2, dtype=torch.float64, device=device))
        self.stop = StopSignals()

    def begin(self) -> None:
        """Make the directory of a new run, or resume an earlier one from its newest checkpoint; open the logger.

        Everything that may be refused is checked before anything in the directory changes.
        """
        saved = self.directory.newest_checkpoint(self.splits.digest) if self.directory is not None else None
        saved = self.processes.broadcast(saved)
        if saved is not None:
            self._restore(saved)
        if self.directory is not None:
            self.directory.start(saved["metrics"] if saved is not None else None)
        self.first_step = self.state.step
        self.logger = self.open_logger()

    def run(self) -> dict[str, float]:
        """Train to the budget's last step, keep the network that is best on validation, and test it once.

        Return {"loss": ..., metric: ...} on the test split. Raises NonFinite, keeping the last checkpoint with finite
        weights, and Interrupted when a signal came, after saving a checkpoint.
        """
        with self.stop.noted():
            try:
                if self.state.step == 0:
                    self._save()  # so that there is a checkpoint to go back to, whatever happens in the first steps
                self._train()
                return self._test()
            except Interrupted:
                if self.state.looked_at < self.state.step:  # otherwise it is saved already
                    self._save()
                raise

    def _train(self) -> None:
        state, budget = self.state, self.budget
        # disable=None: a bar on a terminal, nothing in a file or a pipe
        disable = None if self.processes.is_first else True
        progress = tqdm(total=budget.steps, initial=state.step, unit="step", disable=disable, smoothing=0.05)
        if self.compile_task and self.processes.is_first and state.step < budget.steps:
            tqdm.write("Compiling: the first step takes up to a minute.")
        clock, clock_step = time.monotonic(), state.step
        self.task.train()
        try:
            while True:
                stop = False
                if state.step > state.looked_at:
                    # Several processes have to agree, which costs a wait. After a signal, torchrun allows 30 seconds.
                    if self.processes.world_size == 1 or self._is_due(min(budget.log_every, AGREE_EVERY)):
                        stop = self.processes.any(bool(self.stop.received))
                    if stop or any(self._is_due(every) for every in vars(budget).values()):
                        self._check_finite()  # waits for the device, so that the clock is right
                        self._look(progress, (state.step - clock_step) / (time.monotonic() - clock), stop)
                        clock, clock_step = time.monotonic(), state.step  # looking is not part of the speed
                if state.step == budget.steps:
                    return
                if stop:
                    raise self.stop.interruption()
                self._step()
                progress.update()
        finally:
            progress.close()

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.budget.steps

    def _step(self) -> None:
        """One optimizer step; a pure function of the state and the step's number."""
        state = self.state
        rate = self.learning_rate(state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        torch.manual_seed(_dropout_seed(self.seed, state.step, self.processes.rank))

        loss, state.carried = self.differentiate(self.splits.train.batch(state.step), state.carried)
        gradient_norm = total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, gradient_norm)
        self.optimizer.step()

        # The sums stay on the device: reading them would make the host wait at every step.
        state.window += torch.stack([loss.double(), gradient_norm])
        state.window_steps += 1
        state.step += 1

    def _differentiate(self, batch: Any, carried: Any) -> tuple[Tensor, Any]:
        """Return the loss and the state to carry; leave the gradients in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss, carried = self.objective(batch, carried)
        loss.backward()
        return loss.detach(), carried

    def _look(self, progress: tqdm, steps_per_second: float, stop: bool) -> None:
        """Validate, log and save, whichever is due after this step.

        A run that is stopped during the validation is saved as not yet looked at, and looks when it is resumed.
        """
        state, budget, train = self.state, self.budget, self.splits.train
        validation, pictures = {}, {}
        if self._is_due(budget.validate_every):
            if self.processes.world_size > 1:
                self._save()  # several processes cannot stop in the middle of a validation, and a cluster may not wait
            validation = self._validate()
        row = self._training_row() if self._is_due(budget.log_every) else {}
        row |= {f"validation/{name}": value for name, value in validation.items()}
        state.looked_at = state.step
        if row and self.processes.is_first:
            epoch, examples = state.step / train.steps_per_epoch, state.step * train.examples_per_step
            row = {"step": state.step, "epoch": epoch, "examples": examples} | row  # the three x axes
            self.directory.append_metrics(row)
            if validation:
                for name, content in self.task.pictures().items():
                    pictures[name] = write_picture(self.directory.path, name, content)
            speed = steps_per_second * train.examples_per_step
            self.logger.log({**row, "speed/examples_per_second": speed}, pictures)
        # After a better validation, so that best.pt is at most one ahead of the checkpoint.
        is_best = bool(validation) and state.best["step"] == state.step
        if stop or is_best or self._is_due(budget.checkpoint_every):
            self._save()
        if row and self.processes.is_first:  # last, since printing fails if whoever reads the output has gone
            _show(progress, row, self.task.metric, speed)

    def _training_row(self) -> dict[str, float]:
        """Means over the steps since the last logged row."""
        state = self.state
        sums = self.processes.total(state.window) / self.processes.world_size
        loss, gradient_norm = (sums / state.window_steps).tolist()
        state.window, state.window_steps = torch.zeros_like(state.window), 0
        rate = self.learning_rate(state.step - 1)
        return {"train/loss": loss, "train/gradient_norm": gradient_norm, "train/learning_rate": rate}

    def _validate(self) -> dict[str, float]:
        """Evaluate on the validation split, and keep the network if it is the best so far."""
        state, key = self.state, self.task.metric.key
        self.processes.share_buffers(self.task)
        values = self._evaluate("validation", self.splits.validation.evaluation_batches())
        if state.best is None or values[key] < state.best[key]:
            state.best = {"step": state.step, key: values[key]}
            if self.processes.is_first:
                saved = {**state.best, "run": self.directory.id, "network": self.task.network.state_dict()}
                checkpoint.save_best(self.directory.path, saved)
        return values

    def _test(self) -> dict[str, float]:
        best = None
        if self.processes.is_first and self.state.best is not None:
            best = checkpoint.load_best(self.directory.path, self.directory.id, self.state.best["step"])
        best = self.processes.broadcast(best)
        if best is None:
            raise UserError("There is no best network to test, and no step is left; resume with -r and more steps.")
        load_state(self.task.network, best["network"])
        return self._evaluate("test", self.splits.test.evaluation_batches())

    def _evaluate(self, split: str, batches: Iterable[Any]) -> dict[str, float]:
        with self.autocast:
            values = self.task.evaluate(self._until_stopped(batches), self.processes.total)
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._non_finite(f"{split}/{name}", "at")
        return values

    def _until_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            if self.processes.world_size == 1 and self.stop.received:
                raise self.stop.interruption()
            yield batch

    def _save(self) -> None:
        state = self.state
        carried = self.processes.gather(_to(torch.device("cpu"), state.carried))
        windows = self.processes.gather(state.window.cpu())
        if not self.processes.is_first:
            return
        saved = {
            "run": self.directory.id,
            "network": self.task.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **vars(state),
            "carried": carried,  # one entry per process
            "window": torch.stack(windows),  # [processes, 2]
            "metrics": self.directory.metrics_mark(),
            "threads": torch.get_num_threads(),
            "precision": str(self.precision),
        }
        checkpoint.save_checkpoint(self.directory.path, saved)
        self.directory.record_session({**self.session, "first_step": self.first_step, "last_step": state.step})

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a checkpoint; nothing in the run directory changes."""
        carried, processes = saved["carried"], self.processes
        if saved["step"] > self.budget.steps:
            raise UserError(
                f"The run has done {saved['step']} steps and steps is {self.budget.steps}; resume with "
                f"steps={saved['step']} or more."
            )
        if len(carried) != processes.world_size and carried[0] is not None:
            raise UserError(
                f"The run carried its state in {len(carried)} processes and cannot go on in {processes.world_size}; "
                f"resume it with {len(carried)}."
            )
        if processes.is_first and saved.get("threads") != torch.get_num_threads():
            print(
                f"The run had {saved.get('threads')} threads until now and has {torch.get_num_threads()} from here on: "
                "its numbers will differ in their last digits from those of an uninterrupted run. Set OMP_NUM_THREADS "
                "to avoid that.",
                file=sys.stderr,
            )
        if processes.is_first and saved.get("precision", str(self.precision)) != str(self.precision):
            print(
                f"The run was in {saved['precision']} until now and is in {self.precision} from here on; set precision "
                "to avoid that.",
                file=sys.stderr,
            )
        load_state(self.task.network, saved["network"])
        load_state(self.optimizer, saved["optimizer"])
        self.state.carried = _to(processes.device, carried[processes.rank % len(carried)])
        windows = saved["window"].view(-1, 2)
        same_processes = len(windows) == processes.world_size
        self.state.window = (windows[processes.rank] if same_processes else windows.mean(dim=0)).to(processes.device)
        for name in ("step", "looked_at", "window_steps", "best"):
            setattr(self.state, name, saved[name])

    def _check_finite(self) -> None:
        """Raise NonFinite unless the losses and gradients since the last row, and the weights, are finite."""
        tensors = [self.state.window, *self.task.network.state_dict().values()]
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]).all()
        if self.processes.any(not bool(finite)):
            raise self._non_finite("A loss, a gradient or a weight", "up to")

    def _non_finite(self, what: str, when: str) -> NonFinite:
        return NonFinite(
            f"{what} was not finite {when} step {self.state.step}; the last checkpoint has only finite weights. Go "
            "on from it with -r and a lower learning rate, gradient_clip=1.0 or precision=float32."
        )


def load_state(module: nn.Module | torch.optim.Optimizer | Together, state: Mapping[str, Any]) -> None:
    """Load a state dictionary from a checkpoint."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The checkpoint does not fit the network that the settings describe: {reason}.") from None


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, a float64: in float32 the squares of large ones would overflow.

    A recurrent network that begins a text anew, from a state of zeros, can have finite gradients of 1e18.
    """
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float64)))


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    # PyTorch's CPU generator uses the low 32 bits; odd multipliers keep neighbouring seeds and steps apart there.
    return (seed * 0x9E3779B1 + step * 0x85EBCA6B + rank * 0xC2B2AE35) % 2**32


def _to(device: torch.device, carried: Any) -> Any:
    if carried is None or isinstance(carried, Tensor):
        return None if carried is None else carried.to(device)
    return tuple(tensor.to(device) for tensor in carried)


def _show(progress: tqdm, row: dict[str, Any], metric: Metric, speed: float) -> None:
    """Show a row beside the progress bar; without a terminal, print validations as lines."""
    validation = row.get(f"validation/{metric.key}")
    shown = {}
    if "train/loss" in row:
        shown = {"loss": f"{row['train/loss']:.4f}", "rate": f"{row['train/learning_rate']:.2g}"}
    if validation is not None:
        shown[f"validation {metric.title}"] = f"{validation:.{metric.digits}f}{metric.unit}"
    shown["examples/s"] = f"{speed:.0f}"
    if not progress.disable:
        progress.set_postfix(shown)
    elif validation is not None:
        described = ", ".join(f"{name} {value}" for name, value in shown.items())
        print(f"step {row['step']}/{progress.total}: {described}", flush=True)
