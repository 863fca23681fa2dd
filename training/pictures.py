"""Pictures of a run, as files in the run directory that W&B copies."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from training.checkpoint import write_atomically


def write_picture(run: Path, name: str, content: np.ndarray | str) -> Path:
    """Write an image, uint8 [H, W, 3], as PNG, or a page of HTML to the pictures of a run; return its path."""
    path = run / "pictures" / name.replace("/", "_")
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, str):
        path = path.with_name(path.name + ".html")
        write_atomically(path, content.encode())
    else:
        path = path.with_name(path.name + ".png")
        image = BytesIO()
        Image.fromarray(content).save(image, "PNG")
        write_atomically(path, image.getbuffer())
    return path
