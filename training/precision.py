"""The floating-point precision that a run uses on its device."""

import torch

from hypernets import UserError


def set_precision(precision: str, device: torch.device) -> torch.dtype:
    """Set how this process multiplies float32, and return the type of matrix products and convolutions.

    For "auto", that is bfloat16 where the device has instructions for it, and else float32. On a GPU, only "float32"
    multiplies float32 exactly; the others let it round the factors to TF32. On a CPU, "tf32" is float32.
    """
    if precision not in ("auto", "bf16", "tf32", "float32"):
        raise UserError(f"There is no precision {precision!r}; choose precision=auto, bf16, tf32 or float32.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    if precision == "auto":
        precision = "bf16" if has_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def autocast(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """The context for a forward pass in a precision: autocast for bfloat16, none for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)
