"""The tree of errors."""

import re

import pytest

import latpix.errors
from latpix.errors import LatpixError, MissingExtraError

ERRORS = [value for value in vars(latpix.errors).values() if isinstance(value, type) and issubclass(value, LatpixError)]


def test_the_module_docstring_draws_every_error_once():
    drawn = re.findall(r"\b\w+Error\b", latpix.errors.__doc__)
    assert sorted(drawn) == sorted(error.__name__ for error in ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_caught_as_a_latpix_error_and_says_when_it_is_raised(error):
    assert (error.__doc__ or "").endswith(".")
    with pytest.raises(LatpixError, match="told"):
        raise error("told")


@pytest.mark.parametrize(
    ("extra", "library", "message"),
    [
        ("captions", "transformers", 'captions need transformers: pip install "latpix[captions]"'),
        ("train", "EfficientNet-Lite1", 'training needs EfficientNet-Lite1: pip install "latpix[train]"'),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(extra, library, message):
    assert str(MissingExtraError.of(extra, library)) == message
