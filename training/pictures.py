"""Pictures of a run as files, which the run directory keeps and W&B copies."""

from pathlib import Path

import numpy as np
import torch
from torchvision.io import write_png

from training.checkpoint import write_atomically


def write_picture(path: Path, content: np.ndarray | str) -> Path:
    """Write an image, uint8 [H, W, 3], as PNG, or a page of HTML; return its path, `path` with the right suffix."""
    if isinstance(content, str):
        path = path.with_name(path.name + ".html")
        write_atomically(path, content.encode())
    else:
        path = path.with_name(path.name + ".png")
        write_png(torch.from_numpy(content).permute(2, 0, 1), str(path))
    return path
