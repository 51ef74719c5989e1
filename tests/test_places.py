"""Places that commands fill: those that cannot be made are named before any work, and a run keeps its folder."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import join_parts
import make_tasks
import merge_adapters
import pytest
from recipes.places import hold_folder, require_place
from test_recipe_runs import config, run  # noqa: F401

HOLD = "import sys; from pathlib import Path; from recipes.places import hold_folder; "
HOLD += "hold_folder(Path(sys.argv[1]), 'folder'); print(flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder `run`."""
    folder = tmp_path / "run"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline()
        yield process
        process.kill()


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended(config, tmp_path, holder):  # noqa: F811
    folder = str(tmp_path / "run")
    message = f"`trainer.output_dir` must be a folder that no other run has, got {folder!r}, which process {holder.pid}"
    for mode in ("continue", "restart"):
        with pytest.raises(ValueError, match=re.escape(message)):
            run(config, mode)
    holder.kill()  # as a run that ends without a word
    holder.wait()
    for _ in range(2):  # a process may have a folder again
        assert run(config).state.global_step == 3


def test_a_folder_that_was_made_anew_is_kept_anew(tmp_path):
    for _ in range(2):
        hold_folder(tmp_path, "folder")
        (tmp_path / ".lock").rename(tmp_path / "before")
    hold_folder(tmp_path, "folder")
    assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


def test_a_disk_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    hold_folder(tmp_path, "folder")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_places_that_cannot_be_written_are_named_and_others_are_left_as_they_are(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    for name in ("", "a\0b", "file/x", "file/x/y", "x" * 300, "file" if kind == "folder" else "folder", "/proc/x"):
        message = rf"`OUT` must be the name of a {kind}( that can be written)?, got {re.escape(repr(name))}"
        with pytest.raises(ValueError, match=message):
            require_place(name, "OUT", kind)
    for name in (kind, "new", "new/x/y", "~"):
        require_place(name, "OUT", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("recipe", [join_parts, merge_adapters, make_tasks])
def test_commands_say_so_before_they_read_anything(recipe, tmp_path, monkeypatch):
    out = tmp_path / "file" / "x"
    out.parent.touch()
    given = {join_parts: ["none", "none", str(out)], merge_adapters: ["none", str(out)]}
    message = f"error: `OUT` must be the name of a .* that can be written, got '{out}': Not a directory."
    with pytest.raises(SystemExit, match=message):
        recipe.main(given.get(recipe, [str(out), "none"]))
