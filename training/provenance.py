"""Where a result came from: code, versions and hardware."""

import platform
import subprocess
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The git commit of the code, with "+changes" where the work tree differs from it, or "unknown" without git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def short(commit: str) -> str:
    """A commit as the pages print it: ten digits, with "+changes" if it has that."""
    revision, changes, _ = commit.partition("+changes")
    return revision[:10] + changes


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and PyTorch, and of CUDA where PyTorch sees a GPU."""
    cuda = {"cuda": torch.version.cuda} if torch.cuda.is_available() else {}
    return {"python": platform.python_version(), "torch": torch.__version__} | cuda


def hardware(device: torch.device, world_size: int) -> str:
    """One line that names the processors a run used."""
    if device.type == "cuda":
        return f"{world_size} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    processes = f"{world_size} process{'es' if world_size > 1 else ''} of {threads} thread{'s' if threads > 1 else ''}"
    bf16 = " and bf16" if torch.cpu._is_avx512_bf16_supported() else ""
    return f"{_processor_name()} with {torch.backends.cpu.get_cpu_capability()}{bf16}, {processes}"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
