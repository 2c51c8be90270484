"""What of a backbone is on this machine already: folders, and files in the hub library's cache."""

from pathlib import Path

PIPELINE, MODEL = "model_index.json", "config.json"  # the file that every copy of one has


def is_here(model: str, marker: str = PIPELINE) -> bool:
    """Whether a hub id, or a folder, can be loaded without a download; of a hub id its ``marker`` is looked for."""
    if Path(model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, marker), str)


def folder_bytes(folder: str | Path) -> int:
    """What all files below a folder weigh."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
