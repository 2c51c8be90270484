"""Which device and which numeric type ``auto`` means here, and how its memory is counted and given back."""

import ctypes
import gc
import math
import sys
from pathlib import Path

import torch

from latpix.arithmetic import sound_attention
from latpix.errors import OptionError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device) -> torch.device:
    """``auto`` takes the first accelerator there is, else the CPU; other names are checked against what is there.

    Raises:
        OptionError: no such device on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    if str(device) == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    here = ", ".join(name for name, there in available.items() if there)
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise OptionError(f'device "{device}" is unknown. This machine has: {here}.') from None
    beyond = picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count()
    if not available.get(picked.type) or beyond:
        raise OptionError(f'device "{device}" is not on this machine, which has: {here}.')
    return picked


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on accelerators that compute rightly in it, and on CPUs with bfloat16 units, else float32.

    Raises:
        OptionError: ``dtype`` is none of auto, float32, bfloat16, float16.
    """
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        half = cpu_has_bfloat16() if device.type == "cpu" else bool(sound_attention(device, torch.bfloat16, [64]))
        return torch.bfloat16 if half else torch.float32
    if dtype not in DTYPES:
        raise OptionError(f'dtype "{dtype}" is unknown; expected one of auto, {", ".join(DTYPES)}.')
    return DTYPES[str(dtype)]


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX-512-BF16 or AMX); without, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def has_fp8(device: torch.device) -> bool:
    """Whether the device multiplies fp8 in hardware, with a scale for each row: NVIDIA H100 and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def free_memory() -> None:
    """Give back what nobody holds any more, to the accelerator too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()


def keep_little(*, frugal: bool) -> None:
    """Let glibc give large blocks back to the system when they are freed: of 16 MiB and more, frugally of 4 MiB.

    Left alone it learns from the first large blocks to keep those of up to 32 MiB, and a decode of 1024x1024 ends with
    280 MiB of holes; with 16 MiB up to 150 are left, with 4 next to none, but zeroing the pages again takes a fifth of
    the time. Another C library is left alone. It holds for the whole process until the next call: glibc tells nobody
    what held before, and once told a threshold learns none again.
    """
    if (libc := _glibc()) is not None:
        least = 4 * 2**20 if frugal else 16 * 2**20
        libc.mallopt(-3, least)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 4 * least)  # M_TRIM_THRESHOLD: setting the other one would make it 128 KiB


def resident_bytes() -> int:
    """Resident memory of this process, after what the C library keeps for later is given back; 0 where nobody tells."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def reserved_bytes(device: torch.device) -> int:
    """What this process's allocator has reserved on an accelerator, after what is free of it is given back."""
    free_memory()
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return int(getattr(torch, device.type).memory_reserved(device))


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory; a CPU's allocator has no class of its own for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(one in str(error) for one in words)


def parse_bytes(text: str | int) -> int:
    """``"1.5GiB"``, ``"900MB"`` or a number of bytes.

    Raises:
        OptionError: not a positive size.
    """
    try:
        digits = str(text).strip().rstrip("BKMGIbkmgi ")
        size = float(digits) * UNITS[str(text).strip()[len(digits) :].strip().upper()]
    except (KeyError, ValueError, OverflowError):
        size = 0.0
    if not (math.isfinite(size) and size >= 1):
        raise OptionError(f'"{text}" is not a memory size; write it like 1.5GiB or 900MB.')
    return int(size)
