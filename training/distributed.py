"""Data parallelism: one process per GPU (or a few threads of a CPU), started by torchrun.

Every process takes its slice of the same global batch, so the step count, the learning rates and the meaning of a
batch do not depend on how many processes there are.
"""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from hypernets import UserError


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def require_one(self, task: str) -> None:
        """Raise UserError if there are several processes, among which a task does not divide its batches."""
        if self.world_size > 1:
            raise UserError(f"The task {task} runs in one process; start it without torchrun.")

    def broadcast(self, value):
        """Return the first process's value of a plain Python object, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, value) -> list:
        """Return the values of all processes in the order of their ranks (empty except in the first process)."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_first else None
        torch.distributed.gather_object(value, values, dst=0)
        return values or []

    def total(self, sums: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers, such as the running statistics of batch norm."""
        if self.world_size > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.total(torch.tensor(float(flag), device=self.device))) if self.world_size > 1 else flag

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Within this context the first process runs alone; the others enter once it has left."""
        if self.world_size > 1 and not self.is_first:
            torch.distributed.barrier()
        yield
        if self.world_size > 1 and self.is_first:
            torch.distributed.barrier()


def start_processes(device: str) -> Processes:
    """Join the processes that torchrun started, or be the only one; "auto" is a GPU if there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"There is no device {device!r}; choose device=auto, device=cpu or device=cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but PyTorch sees no GPU; choose device=cpu or device=auto.")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "cpu" or not torch.cuda.is_available():
        chosen = torch.device("cpu")
    else:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if chosen.index >= torch.cuda.device_count():
            raise UserError(
                f"There is no GPU for process {chosen.index + 1} of this machine, on which PyTorch sees "
                f"{torch.cuda.device_count()}; start fewer processes, or choose device=cpu."
            )
        torch.cuda.set_device(chosen)
    if world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(_leave_processes)
    return Processes(rank, world_size, chosen)


def _leave_processes() -> None:
    """End the threads of the process group before the interpreter ends; otherwise the process sometimes aborts."""
    gc.collect()  # a network in a reference cycle would keep the group, and with it the threads, alive
    torch.distributed.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context, own: Tensor) -> Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    backward = forward


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch of all processes, on any backend (`nn.SyncBatchNorm` needs a GPU).

    Every process must hold the same number of examples. Means travel in float32, forward and backward; first those of
    the values, then those of the squared distances to them, which loses no digits where a mean is large.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]."""
        if not self.training:
            return super().forward(x)
        world_size = torch.distributed.get_world_size()
        mean = _SumOverProcesses.apply(x.float().mean(dim=(0, 2, 3))) / world_size
        centred = x.float() - mean.view(1, -1, 1, 1)
        variance = _SumOverProcesses.apply(centred.square().mean(dim=(0, 2, 3))) / world_size
        with torch.no_grad():
            count = x.numel() / x.shape[1] * world_size
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)  # unbiased, as nn.BatchNorm2d does
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch norm of a module normalise over the global batch; parameters and statistics stay as they are."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SynchronisedBatchNorm2d
    return module
