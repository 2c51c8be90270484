"""Saves of a run: written beside, then renamed, by a thread; the last few are kept.

    RUN/saves/step_00000500/    __0_0.distcp, ... (tensors, by torch.distributed.checkpoint), facts_0.json, ...

A save is a dictionary of tensors by name, sharded ones too, and facts of each process as JSON. Tensors are copied
before ``start`` returns; while the thread writes the copy, training goes on. A folder without ``.part`` in its name is
whole, whenever the process was killed.
A tensor may be loaded into another number of shards than it was saved from. The index of the tensors is a pickle, so a
run's folder is to be trusted as a program is: go on with your own.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from latpix.errors import OutputError, TrainingError

Facts = dict[str, Any]
Tensors = dict[str, Tensor]


class Saves:
    """The saves of one run.

    Args:
        folder: made when missing; what a killed process left half written in it is removed.
        keep: how many stay.
        group: of all processes, one that works on a CPU; None: this one is alone.
    """

    def __init__(self, folder: Path, *, keep: int, group: dist.ProcessGroup | None = None) -> None:
        self.folder, self.keep, self.group = folder, keep, group
        self.rank = 0 if group is None else dist.get_rank(group)
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob("*.part"):
                shutil.rmtree(part)
        self._meet()
        _say_nothing_of_one_process()
        pinned = torch.cuda.is_available()
        options = StagingOptions(
            use_pinned_memory=pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=pinned
        )
        self.stager = DefaultStager(options)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="latpix-save")
        self.pending: Future[None] | None = None

    def start(self, step: int, tensors: Tensors, facts: Facts) -> None:
        """Copy tensors and facts and begin to write it; an earlier save is finished first.

        Raises:
            OutputError: the earlier save could not be written.
        """
        self.wait()
        staged = self.stager.stage(tensors)
        assert isinstance(staged, dict)
        self.pending = self.thread.submit(self._write, self.folder / name_of(step), staged, json.dumps(facts))

    def wait(self) -> None:
        """Until the last save is on the disk.

        Raises:
            OutputError: it could not be written.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            try:
                pending.result()
            except (OSError, CheckpointException) as error:
                raise OutputError(f'a save in "{self.folder}" could not be written: {error}') from error

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()

    def all(self) -> list[Path]:
        """The folders of whole saves, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if path.suffix != ".part")

    def _write(self, path: Path, tensors: Tensors, facts: str) -> None:
        part = path.with_suffix(".part")
        if self.rank == 0:
            part.mkdir()
        self._meet()
        with (part / f"facts_{self.rank}.json").open("w") as file:
            file.write(facts)
            file.flush()
            os.fsync(file.fileno())
        alone = self.group is None
        save(tensors, storage_writer=FileSystemWriter(part), process_group=self.group, no_dist=alone)
        self._meet()
        if self.rank == 0:
            if path.exists():  # a run that went on, and was stopped, at the very step: the same state
                shutil.rmtree(part)
            else:
                part.rename(path)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old.rename(old.with_suffix(".part")))  # never half a save under a whole one's name
        self._meet()

    def _meet(self) -> None:
        if self.group is not None:
            dist.barrier(self.group)


def name_of(step: int) -> str:
    """The folder of a step's save; names sort as steps do."""
    return f"step_{step:08d}"


def read_facts(path: Path, rank: int = 0) -> Facts:
    """What a process noted of itself in a save; of one that was not there then, what the first one noted."""
    own = path / f"facts_{rank}.json"
    facts: Facts = json.loads((own if own.is_file() else path / "facts_0.json").read_text())
    return facts


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The whole shape of every tensor of a save."""
    entries = _index(path).state_dict_metadata
    return {name: tuple(e.size) for name, e in entries.items() if isinstance(e, TensorStorageMetadata)}


def load_into(tensors: Mapping[str, Tensor], path: Path, group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors in place from a save, strictly.

    Args:
        tensors: by name, whole or sharded; all that the save holds.
        path: of the save.
        group: of all processes; None: this one is alone.

    Raises:
        TrainingError: names or shapes differ; they are told.
    """
    there, ours = shapes_in(path), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if there != ours:
        missing, strange = sorted(set(ours) - set(there)), sorted(set(there) - set(ours))
        reshaped = sorted(name for name in set(ours) & set(there) if ours[name] != there[name])
        lists = {"missing": missing, "strange": strange, "of another shape": reshaped}
        told = "; ".join(f"{what}: {', '.join(names[:4])} ({len(names)})" for what, names in lists.items() if names)
        raise TrainingError(f'"{path}" is of another run. {told}.')
    _say_nothing_of_one_process()
    load(dict(tensors), storage_reader=FileSystemReader(path), process_group=group, no_dist=group is None)


def _say_nothing_of_one_process() -> None:
    """The library warns whenever one process saves alone; here, a filter for good, as filters know no threads."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable", category=UserWarning)


def _index(path: Path) -> Metadata:
    return FileSystemReader(path).read_metadata()
