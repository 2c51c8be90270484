"""A script of the tests in a Python of its own, with a port on which the processes that it forks can meet."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_script(module, folder):
    """Run a module's file as ``python FILE FOLDER PORT``, as if no torchrun had started the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = [str(Path(module.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environment.pop(name, None)
    subprocess.run([sys.executable, module.__file__, folder, str(port)], check=True, env=environment, timeout=300)
