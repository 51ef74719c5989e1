"""Files and folders that commands write: what is refused before any work, and what takes the place of what."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError
from test_cli import contents, fail

from josie.cli import lines, live, progress, shared, streamed_speech
from josie.cli.options import check_out, file_ending_in, folder_name, new_folder_name
from josie.conversion.files import new_file, new_folder, write_file
from josie.conversion.loading import reading
from josie.nano import find_model

DATA = Path(__file__).parent / "data"
AS_JSON = file_ending_in(".json")


class TestInputs:
    @pytest.mark.parametrize("make", [None, "link", "symlink"])
    def test_a_file_that_is_read_is_not_written(self, tmp_path, make):
        source = out = tmp_path / "a.json"
        source.write_text("{}")
        if make is not None:
            out = tmp_path / "b.json"
            getattr(os, make)(source, out)
        with pytest.raises(
            ValueError, match=r"`--out` must be another file than '.*a.json', which is read, got '.*'.$"
        ):
            check_out(out, AS_JSON, [None, tmp_path / "none", source])
        check_out(tmp_path / "c.json", AS_JSON, [source])

    @pytest.mark.parametrize(
        "command",
        [
            ("generate", "nano", "--audio", "IN"),
            ("duplex", "nano", "IN"),
            ("chat", "nano", "--live", "--in", "IN"),
            ("codec", "roundtrip", "IN", "--model", "nano/jodio"),
        ],
    )
    def test_by_commands(self, tmp_path, command):
        source = tmp_path / "a.wav"
        source.write_bytes((DATA / "speech.wav").read_bytes())
        message = fail(*[source if word == "IN" else word for word in command], "--out", source)
        assert message == f"`--out` must be another file than {str(source)!r}, which is read, got {str(source)!r}."
        assert source.read_bytes() == (DATA / "speech.wav").read_bytes()

    def test_weights_are_read_too(self):
        weights = find_model(Path("nano/jodio")) / "model.safetensors"
        message = fail("codec", "encode", DATA / "speech.wav", "--model", "nano/jodio", "--out", weights)
        assert message.startswith("`--out` must be another file than ")


class TestPlaces:
    def test_places_that_cannot_be_written(self, tmp_path, monkeypatch):
        there = tmp_path / "there.json"
        there.write_text("")
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert AS_JSON(tmp_path / "a.json") == "be in a folder that can be written"
        assert AS_JSON(there) == "be a file that may be written"
        assert new_folder_name(tmp_path / "a" / "b") == "be in a folder that can be written"
        assert folder_name(tmp_path) == "be a folder that can be written"
        message = fail("speak", "nano", "Hi.", "--out", tmp_path / "a.wav")
        assert message == f"`--out` must be in a folder that can be written, got {str(tmp_path / 'a.wav')!r}."

    def test_files_are_no_folders(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert new_folder_name(tmp_path / "file" / "a") == "be in a folder that can be written"

    def test_the_longest_names(self, tmp_path):
        longest = "n" * os.pathconf(tmp_path, "PC_NAME_MAX")
        write_file(tmp_path / longest, "text")
        assert contents(tmp_path) == [longest]
        (tmp_path / longest).unlink()
        with new_folder(tmp_path / longest) as unfinished:
            (unfinished / "a").write_text("")
        assert contents(tmp_path) == [longest]


class TestWholeFiles:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipes_are_written_into(self, tmp_path):
        os.mkfifo(tmp_path / "a.json")
        assert AS_JSON(tmp_path / "a.json") is None
        with ThreadPoolExecutor(1) as readers:
            got = readers.submit((tmp_path / "a.json").read_text)
            write_file(tmp_path / "a.json", "text")
            assert got.result(timeout=30) == "text"
        assert (tmp_path / "a.json").is_fifo()
        assert contents(tmp_path) == ["a.json"]

    def test_links_stay(self, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "a").symlink_to(Path("other") / "b")
        for text in ("new", "newer"):
            write_file(tmp_path / "a", text)
            assert (tmp_path / "a").is_symlink()
            assert (tmp_path / "other" / "b").read_text() == text
        assert contents(tmp_path / "other") == ["b"]

    @pytest.mark.parametrize("is_there", [True, False])
    def test_links_to_folders(self, tmp_path, is_there):
        if is_there:
            (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert new_folder_name(tmp_path / "link") is None
        with new_folder(tmp_path / "link") as unfinished:
            (unfinished / "a").write_text("")
        assert (tmp_path / "link").is_symlink()
        assert contents(tmp_path / "real") == ["a"]
        assert contents(tmp_path) == ["link", "real"]

    def test_errors_name_what_was_given(self, tmp_path):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raised = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        for error in (full, raised):
            with (
                pytest.raises(OSError, match="`OUT` must be writable: No space") as caught,
                new_folder(tmp_path / "a", "OUT") as outer,
                new_folder(outer, "folder"),  # as an export saves
            ):
                raise error
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
        assert shared._tell(caught.value) == (
            f"`OUT` must be writable, got {str(tmp_path / 'a')!r}: No space left on device."
        )
        told = pytest.raises(ValueError, match=r"`--out` must be writable, got '.*/c': No space left on device.$")
        with told, shared.writing_out(tmp_path / "c"), new_file(tmp_path / "c"):
            raise full
        with pytest.raises(FileNotFoundError, match="elsewhere"), shared.writing_out(tmp_path / "c"):
            (tmp_path / "elsewhere").read_text()
        assert contents(tmp_path) == []

    def test_others_may_read_what_the_umask_lets_them(self, tmp_path):
        before = os.umask(0o027)
        try:
            with new_folder(tmp_path / "a") as unfinished:
                for name, mode in (("weights", 0o600), ("program", 0o700)):
                    (unfinished / name).write_text("")
                    (unfinished / name).chmod(mode)
        finally:
            os.umask(before)
        modes = [(tmp_path / "a" / name).stat().st_mode & 0o777 for name in ("weights", "program")]
        assert modes == [0o640, 0o740]

    def test_weights_that_may_not_be_read(self, tmp_path, monkeypatch):
        (tmp_path / "model.safetensors").write_text("")
        monkeypatch.setattr(os, "access", lambda path, mode: path == tmp_path)
        match = r"`DIR` must hold weights, got '.*': '.*' is there and may not be read"
        with pytest.raises(ValueError, match=match), reading(tmp_path, "weights"):
            raise OSError("No such file or directory")


class TestClosedStreams:
    def test_input(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", None)
        for read in (streamed_speech.read_text(), lines.read_lines(False)):
            with pytest.raises(ValueError, match="Standard input must be open to read the .*, got a closed one."):
                next(read)
        assert list(live.Lines().take()) == []

    def test_their_numbers_are_no_files(self, monkeypatch):
        known, opened = os.fstat, []

        def find(descriptor):
            if descriptor == 1:
                raise OSError(errno.EBADF, "closed")
            return known(descriptor)

        monkeypatch.setattr(os, "fstat", find)
        monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path))
        shared.fill_closed_streams()
        monkeypatch.undo()
        assert opened == [os.devnull]

    def test_output(self, monkeypatch):
        from rich.table import Table

        for name in ("sys.stdout", "sys.stderr"):
            monkeypatch.setattr(name, None)
        shared.print_table(Table())
        shared.report("nobody reads it")
        with progress.waiting("task"), progress.counting("steps", 1) as advance:
            advance(1)
