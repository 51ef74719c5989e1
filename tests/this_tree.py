"""Whoever imports this tests the tree that it is in, also where another josie is installed, or none."""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def find_this_tree() -> None:
    """Make this process and those that it starts import `josie` from this tree.

    An editable install of this tree does so already. Otherwise, since the package's folder may have any name, a folder
    with a link named `josie` comes first on the path.
    """
    found = importlib.util.find_spec("josie")
    if found is not None and found.origin and Path(found.origin).resolve() == ROOT / "__init__.py":
        return
    folder = tempfile.mkdtemp(prefix="josie-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / "josie").symlink_to(ROOT, target_is_directory=True)
    sys.path.insert(0, folder)
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder if not paths else os.pathsep.join((folder, paths))


find_this_tree()
