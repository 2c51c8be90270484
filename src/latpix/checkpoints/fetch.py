"""Fetch a released checkpoint from the hub, convert it, check it.

hub -> the hub library's cache (resumed where it broke off) -> our format under LATPIX_HOME -> loaded once
"""

from collections.abc import Callable
from pathlib import Path

import torch

from latpix.checkpoints.load import convert, load, stored
from latpix.checkpoints.registry import HUB, Checkpoint, find
from latpix.errors import CheckpointError, DownloadError, OutputError

PAGE = f"https://huggingface.co/{HUB}"

Download = Callable[[str, str], str]  # (repository, file in it) -> local path


def hub_download(repository: str, filename: str) -> str:
    """Download by huggingface_hub: resumes, knows HF_HOME, HF_TOKEN and HF_HUB_OFFLINE."""
    from huggingface_hub import hf_hub_download

    return hf_hub_download(repository, filename)


def fetch(name: str, *, download: Download = hub_download, overwrite: bool = False) -> Path:
    """Bring a registry row's weights to this machine; a row that is there whole is not fetched again.

    Its license is the row's; whoever calls this shows it first.

    Args:
        name: of the registry.
        download: how a hub file becomes a local one.
        overwrite: fetch even if it is there.

    Returns:
        The file, in our format, under ``LATPIX_HOME``; inside the package for shipped weights.

    Raises:
        CheckpointError: unknown name, or the file that came is not the row's.
        DownloadError: the hub did not give it; the message says why, and how to do it by hand.
        OutputError: our copy cannot be written.
    """
    row = find(name)
    target = stored(row)
    if row.upstream_path is None:
        if not target.is_file():
            raise CheckpointError(f'"{name}" ships with latpix, but its file is missing; install latpix again.')
        return target
    if not overwrite and _is_whole(row):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'"{target.parent}" cannot be made: {error.strerror}. Set LATPIX_HOME elsewhere.') from error
    try:
        path = download(HUB, row.upstream_path)
    except Exception as error:  # the hub's library raises many kinds, its network library more
        raise DownloadError(_advice(row, error)) from error
    convert(path, target, like=name, overwrite=True)
    load(name, dtype=torch.bfloat16)
    return target


def _is_whole(row: Checkpoint) -> bool:
    """Whether a row's file is here and is what it says."""
    try:
        load(row.name, dtype=torch.bfloat16)
    except CheckpointError:
        return False
    return True


def _advice(row: Checkpoint, error: Exception) -> str:
    """Why the hub gave nothing, and the way without it."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        reason = "there is no connection to the hub (or HF_HUB_OFFLINE is set)"
    elif isinstance(error, EntryNotFoundError):
        reason = "the hub does not have it"
    elif isinstance(error, RepositoryNotFoundError):  # gated ones too
        reason = f"the hub wants to know who asks: accept the license at {PAGE} and set HF_TOKEN"
    else:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
    gone = " Upstream has withdrawn this file; it may be gone." if row.withdrawn else ""
    return (
        f'"{row.upstream_path}" did not come from the hub repository {HUB}: {reason}.{gone}\n'
        f"By hand: download it from {PAGE}/blob/main/{row.upstream_path} on a machine with a connection, copy it here "
        f"and convert it; it is under the {row.license}.\n"
        f"    latpix checkpoints convert model_ema_bf16.pth -o {stored(row)} --like {row.name}"
    )
