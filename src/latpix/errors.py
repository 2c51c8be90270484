"""Every exception that latpix raises on purpose, in one tree.

    LatpixError
    ├── UsageError          the call makes no sense: arguments that exclude each other, a missing input folder
    ├── PictureError        a picture that cannot be read, or is too large
    ├── LatentError         a latent that cannot be read, or does not fit the checkpoint
    ├── CheckpointError     a name nobody knows, or a file that fits no registry row
    ├── CaptionError        a caption that cannot be embedded, or a caption file that cannot be read
    ├── ScheduleError       times that do not fall to zero, more steps than a schedule has
    ├── OptionError         an option's value outside what the checkpoint or the device can do
    ├── OutputError         a result that cannot be written
    ├── MemoryLimitError    a memory limit that nothing fits into, or memory that ran out twice
    ├── TeamError           one of the processes that share a picture failed, so the others cannot finish it
    ├── MissingExtraError   an optional library that is not installed
    ├── DownloadError       a file that the hub did not give
    ├── ManifestError       a line of a manifest that cannot be used
    ├── DataError           shards of training samples that are missing, damaged, or not what the loader needs
    ├── TrainingError       a run that cannot go on: its loss is no number, its folder holds another run
    └── BenchmarkError      a measurement that does not count: wrong numbers, or slower than it was

One warning, ``MemoryWarning``: memory ran out, and the work went on in a way that takes less.

A message says what came, what was expected and what to do. People's mistakes raise these at the edge; ``assert`` states
what only a bug of ours could break.
"""


class LatpixError(Exception):
    """Base of all errors of latpix; catch this one to catch them all."""


class UsageError(LatpixError):
    """The call itself makes no sense; the command line exits with 2."""


class PictureError(LatpixError):
    """A picture cannot be read, or is larger than the pixel budget."""


class LatentError(LatpixError):
    """A latent cannot be read, or is not what the latent space or the checkpoint expects."""


class CheckpointError(LatpixError):
    """A checkpoint's name is unknown, or its file fits no row of the registry."""


class CaptionError(LatpixError):
    """A caption cannot be embedded, or a caption file cannot be read."""


class ScheduleError(LatpixError):
    """The times do not fall strictly to zero, or there are fewer of them than steps."""


class OptionError(LatpixError):
    """An option's value is outside what the checkpoint or the device can do."""


class OutputError(LatpixError):
    """A result cannot be written: it exists already, its folder is missing, the disk is full."""


class MemoryLimitError(LatpixError):
    """Nothing fits into the memory limit, not even the smallest tile; or memory ran out, and again with less."""


class TeamError(LatpixError):
    """One of the processes that share a picture failed, and the others wait for it in vain: the run ends."""


class MissingExtraError(LatpixError):
    """An optional library is needed and not installed."""

    @classmethod
    def of(cls, extra: str, library: str) -> "MissingExtraError":
        """The error for a missing library, e.g. ``raise MissingExtraError.of("captions", "transformers")``.

        Args:
            extra: the extra of our package that brings the library.
            library: the name of the library, as people know it.
        """
        who_needs = {"train": "training needs", "eval": "evaluation needs"}.get(extra, f"{extra} need")
        return cls(f'{who_needs} {library}: pip install "latpix[{extra}]"')


class DownloadError(LatpixError):
    """A file could not be downloaded."""


class ManifestError(LatpixError):
    """A line of a manifest cannot be used."""


class DataError(LatpixError):
    """Shards of training samples are missing or damaged, or cannot give what was asked for."""


class TrainingError(LatpixError):
    """A training run cannot go on."""


class BenchmarkError(LatpixError):
    """What was measured computes something else than it should, or is slower or larger than it was."""


class MemoryWarning(RuntimeWarning):
    """Memory ran out, and the work went on in a way that takes less."""
