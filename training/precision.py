"""The floating-point precision that a run uses on its device."""

import torch

from hypernets import UserError


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of matrix products and convolutions: for "auto", bfloat16 where the device has instructions for it."""
    if precision not in ("auto", "bf16", "float32"):
        raise UserError(f"There is no precision {precision!r}; choose precision=auto, bf16 or float32.")
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        else:
            precision = "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """The context for a forward pass in a precision: autocast for bfloat16, none for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)
