"""Where a text encoder's files are, and what to do where they are not.

A model is named by a hub id, or by a folder as transformers saves it.
"""

from hashlib import sha256
from pathlib import Path

from latpix import resources
from latpix.errors import CaptionError, DownloadError

MODEL = "Efficient-Large-Model/gemma-2-2b-it"  # the text encoder of all released decoders
WEIGHT_BYTES = 5.2e9  # of it, in bfloat16
_FILES = ["*.json", "model*.safetensors", "tokenizer.model"]  # of a hub repository


def null_file() -> Path:
    """Where the embedding of the empty caption, made on another machine, is looked for."""
    return resources.home() / "captions" / "null.safetensors"


def is_hub_id(model: str | Path) -> bool:
    """Whether a model that is no folder here may be one of the hub: ``owner/name``."""
    name = str(model)
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))


def identity(model: str | Path) -> str:
    """What tells one text encoder from another: a hub id, or a folder's name and a digest of its files' dates."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    return f"{folder.resolve().name}#{sha256(repr(facts).encode()).hexdigest()[:12]}"


def weight_bytes(model: str | Path, each: int) -> int:
    """What a text encoder takes in weights of ``each`` bytes; 0 where nobody knows before they are here."""
    files = Path(model).glob("*.safetensors") if Path(model).is_dir() else ()
    in_files = WEIGHT_BYTES if str(model) == MODEL else sum(file.stat().st_size for file in files)
    return round(in_files * each / 2)  # bfloat16 rests there


def local_folder(model: str | Path) -> Path:
    """The folder of a text encoder; a hub id's is downloaded at its first use.

    Raises:
        CaptionError: no such folder, and no hub id.
        DownloadError: the hub did not give it.
    """
    folder, name = Path(model), str(model)
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise CaptionError(f'the text encoder "{name}" is neither a folder nor a hub id. {ways_on(name)}')
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the hub's library raises many kinds, its network library more
        raise DownloadError(
            f'the text encoder "{name}" did not come from the hub: {_why(error)}. {ways_on(name)}'
        ) from error


def ways_on(model: str | Path) -> str:
    """What to do without a text encoder."""
    hub_id = model if is_hub_id(model) else MODEL
    return (
        "What helps:\n"
        f"- `hf download {hub_id}` (5.2 GB) where there is a connection; or copy its folder here and name it: "
        "--caption-model DIR (`latpix caption`: --model DIR);\n"
        '- on a machine that has it, `latpix caption "a cat" -o cat.safetensors`, and here --caption-file '
        "cat.safetensors;\n"
        '- paint without words: on such a machine, once, `latpix caption "" -o null.safetensors`; here, '
        f"--no-caption finds it as {null_file()}."
    )


def first_line(error: Exception) -> str:
    """What a library says, without its essay."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _why(error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return "there is no connection to it (or HF_HUB_OFFLINE is set), and no copy in its cache"
    if isinstance(error, RepositoryNotFoundError):  # gated ones too
        return "it has no such repository, or wants to know who asks: accept its license there and set HF_TOKEN"
    return first_line(error)
