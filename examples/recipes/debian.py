"""Data from Debian packages: downloaded with apt-get, unpacked with dpkg, nothing installed, no root needed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class FetchError(RuntimeError):
    """Data or a tool that a recipe needs cannot be had; the message says what to do."""


def require_tool(name: str, package: str) -> str:
    """Return the path of a command, or raise a [`FetchError`] that names the Debian package it comes from."""
    found = shutil.which(name)
    if found is None:
        raise FetchError(f"The command {name!r} is needed and was not found: install {package!r} (apt-get install).")
    return found


def fetch_package(name: str, cache: Path, local: Path | None = None) -> Path:
    """Download and unpack a Debian package, unless that was done before.

    A package appears in the cache only when it is complete, and counts as unpacked only when all of it is.

    Args:
        name (`str`): Of the package.
        cache (`Path`): Folder that keeps packages and what was in them.
        local (`Path`, *optional*): Folder to take a `.deb` file from before anything is downloaded.

    Returns:
        The folder that holds what was in all packages of the cache, as it would lie under `/`.

    Raises:
        [`FetchError`]: apt-get or dpkg is missing, or the package cannot be downloaded or unpacked.
    """
    root, done = cache / "root", cache / f"{name}.done"
    if done.exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    folders = [folder for folder in (cache, local) if folder is not None]
    found = [path for folder in folders for path in sorted(folder.glob(f"{name}_*.deb"))]
    package = found[0] if found else _download(name, cache)
    result = subprocess.run(
        [require_tool("dpkg", "dpkg"), "-x", str(package), str(root)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise FetchError(
            f"The package {str(package)!r} cannot be unpacked; delete it and try again: {result.stderr.strip()}"
        )
    done.touch()
    return root


def _download(name: str, cache: Path) -> Path:
    apt_get = require_tool("apt-get", "apt")
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache) as folder:
        result = subprocess.run([apt_get, "download", name], cwd=folder, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*.deb"))
        if result.returncode or not found:
            reason = result.stderr.strip().splitlines()
            raise FetchError(
                f"The Debian package {name!r} cannot be downloaded (no network, or `apt-get update` was never run): "
                f"{reason[-1] if reason else 'no reason given'}"
            )
        return Path(shutil.move(os.fspath(found[0]), cache / found[0].name))
