"""What of a backbone is on this machine already: folders, and files in the hub library's cache."""

import json
from pathlib import Path

PIPELINE, MODEL = "model_index.json", "config.json"  # the file that every copy of one has
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_WITHOUT = ("Tokenizer", "Scheduler", "Processor", "Extractor")  # parts of a pipeline that have no weights


def is_here(model: str, marker: str = PIPELINE) -> bool:
    """Whether a hub id, or a folder, can be loaded without a download: its ``marker``, and the weights beside it."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, marker) if model.count("/") == 1 else None
        if not isinstance(found, str):
            return False
        folder = Path(found).parent
    if Path(marker).suffix in WEIGHTS:
        return True
    if marker != PIPELINE:
        return _has_weights(folder)
    try:
        parts = json.loads((folder / PIPELINE).read_text())
    except (OSError, ValueError):
        return False
    classes = {name: part[1] for name, part in parts.items() if isinstance(part, list) and part[1] is not None}
    return all(_has_weights(folder / name) for name, kind in classes.items() if not any(w in kind for w in _WITHOUT))


def folder_bytes(folder: str | Path) -> int:
    """What all files below a folder weigh."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix in WEIGHTS for path in folder.iterdir())
