"""Every test runs with the package's shapes checked, away from the user's cache and from the network.

The hook below checks each signature of latpix at every call (jaxtyping, by beartype). A function that people hand their
own tensors to, and that has words of its own for a wrong one, is therefore annotated with a plain ``Tensor``.
"""

import os

import hypothesis
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the hub's library reads it once, when it is imported
os.environ.setdefault("MKL_CBWR", "AVX2")  # products round alike on all Intel processors; read once, by torch's library
install_import_hook("latpix", "shape_checks.check")  # before anything below imports latpix

# The same examples in every run, and no stopwatch: the machine may be busy with something else.
hypothesis.settings.register_profile("latpix", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("latpix")


@pytest.fixture(autouse=True, scope="session")
def _away_from_home(tmp_path_factory):
    """Weights and captions that a test stores stay in a folder of this run; the hub is not asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATPIX_HOME", str(tmp_path_factory.mktemp("latpix-home")))
        yield
