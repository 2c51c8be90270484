"""Encoders from the hub: single files, or a model's folder; and why it gave nothing."""

from pathlib import Path

from latpix.errors import DownloadError


def is_hub_id(name: str) -> bool:
    """Whether what is no file or folder here may be a repository of the hub: ``owner/name``."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/")


def hub_file(repository: str, *filenames: str, instead: str) -> Path:
    """The first of several files that a repository has, downloaded at its first use.

    Args:
        repository: ``owner/name``.
        filenames: paths in it.
        instead: what to do by hand, for the message.

    Raises:
        DownloadError: the hub gave none of them.
    """
    from huggingface_hub import hf_hub_download

    first: Exception | None = None
    for filename in filenames:
        try:
            return Path(hf_hub_download(repository, filename))
        except Exception as error:  # the hub's library raises many kinds, its network library more
            first = first or error
    assert first is not None
    raise DownloadError(
        f'"{filenames[0]}" did not come from the hub repository {repository}: {why(first)}.\n{instead}'
    ) from first


def hub_folder(repository: str, *patterns: str, instead: str) -> Path:
    """The folder of a model, with the files that fit the patterns.

    Raises:
        DownloadError: the hub did not give it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:
        raise DownloadError(f'"{repository}" did not come from the hub: {why(error)}.\n{instead}') from error


def why(error: Exception) -> str:
    """What a failed download means."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return "there is no connection to it (or HF_HUB_OFFLINE is set), and no copy in its cache"
    if isinstance(error, EntryNotFoundError):
        return "it has no such file"
    if isinstance(error, RepositoryNotFoundError):  # gated ones too
        return "it has no such repository, or wants to know who asks: accept its license there and set HF_TOKEN"
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
