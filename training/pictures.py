"""Pictures of a run as files, which the run directory keeps and W&B copies."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from training.checkpoint import write_atomically


def write_picture(path: Path, content: np.ndarray | str) -> Path:
    """Write an image, uint8 [H, W, 3], as PNG, or a page of HTML; return its path, `path` with the right suffix."""
    if isinstance(content, str):
        path = path.with_name(path.name + ".html")
        write_atomically(path, content.encode())
    else:
        path = path.with_name(path.name + ".png")
        image = BytesIO()
        Image.fromarray(content).save(image, "PNG")
        write_atomically(path, image.getbuffer())
    return path
