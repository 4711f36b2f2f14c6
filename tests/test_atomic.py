"""Files are complete or untouched: `yolo_attn.atomic`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo_attn import atomic

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and signals of POSIX")


def run(code: str, *args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"import os, sys\nfrom yolo_attn import atomic\n{code}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "YOLO_OFFLINE": "true"})


def test_a_new_file_is_written_with_the_permissions_of_the_umask(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    atomic.write_text(tmp_path / "new.yaml", "äöü\n")
    assert (tmp_path / "new.yaml").read_bytes() == "äöü\n".encode()
    assert (tmp_path / "new.yaml").stat().st_mode == plain.stat().st_mode


@posix
def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640


def test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_an_exception_creates_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic.replacing(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


@posix
@pytest.mark.parametrize("existing", ["old", None])
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, existing):
    path = tmp_path / "a.txt"
    if existing:
        path.write_text(existing)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))"
    code = f"{limit}\ntry: atomic.write_bytes(sys.argv[1], bytes(4096))\nexcept OSError as e: print(e.filename)"
    done = run(code, path)
    assert done.stdout.strip() == str(path), done.stderr
    assert os.listdir(tmp_path) == (["a.txt"] if existing else [])
    assert existing is None or path.read_text() == existing


@posix
def test_a_killed_writer_leaves_the_old_file_and_the_next_write_removes_its_leftover(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = "with atomic.replacing(sys.argv[1]) as part:\n part.write_text('half'); os.kill(os.getpid(), 9)"
    assert run(code, path).returncode == -9
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    atomic.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_write_in_progress_is_no_leftover(tmp_path):
    path = tmp_path / "a.txt"
    with atomic.replacing(path) as part:
        part.write_text("first")
        atomic.write_text(path, "second")
        assert part.read_text() == "first"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]


def test_leftovers_of_other_files_stay(tmp_path):
    for name in (".b-01234567.part.txt", ".a-01234567.part.yaml", ".a-notes.txt"):
        (tmp_path / name).touch()
    atomic.write_text(tmp_path / "a.txt", "new")
    assert len(os.listdir(tmp_path)) == 4


def test_many_threads_write_one_file_and_one_content_wins(tmp_path):
    path = tmp_path / "a.txt"
    contents = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=atomic.write_text, args=(path, text)) for text in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in contents and os.listdir(tmp_path) == ["a.txt"]


@posix
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    atomic.write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


@posix
def test_a_pipe_is_written_directly(tmp_path):
    done = run("atomic.write_text(sys.argv[1], 'hello')", "/dev/stdout")
    assert done.stdout == "hello", done.stderr


def test_a_folder_or_a_missing_folder_is_named(tmp_path):
    with pytest.raises(IsADirectoryError) as folder:
        atomic.write_text(tmp_path, "x")
    assert folder.value.filename == str(tmp_path)
    missing = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError) as error:
        atomic.write_text(missing, "x")
    assert error.value.filename == str(missing)


def test_the_temporary_path_has_the_suffix_and_long_names_fit(tmp_path):
    path = tmp_path / ("ä" * 100 + ".html")
    with atomic.replacing(path) as part:
        assert part.suffix == ".html" and part.parent == path.parent
    assert path.exists()


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of Windows: there is no flock, and what is open is neither renamed, replaced nor deleted."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are listed on Linux only")
    monkeypatch.setattr(atomic, "fcntl", None)

    def strict(name: str) -> Callable[..., None]:
        original = getattr(os, name)

        def checked(*paths: str | os.PathLike, **options: object) -> None:
            handles = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            opened = {os.readlink(handle) for handle in handles if os.path.lexists(handle)}
            if opened & {os.path.realpath(path) for path in paths}:
                raise PermissionError(errno.EACCES, "is open in another process", os.fspath(paths[0]))
            original(*paths, **options)

        return checked

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, strict(name))


@pytest.mark.usefixtures("windows")
def test_on_windows_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path)


@pytest.mark.usefixtures("windows")
def test_on_windows_a_leftover_is_removed_and_a_write_in_progress_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".a-01234567.part.txt").touch()
    test_a_write_in_progress_is_no_leftover(tmp_path)


@pytest.mark.usefixtures("windows")
def test_on_windows_a_reader_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    reader = open(path, encoding="utf-8")  # noqa: SIM115
    threading.Timer(0.1, reader.close).start()
    atomic.write_text(path, "new")
    assert reader.closed and path.read_text() == "new"


@pytest.mark.usefixtures("windows")
def test_on_windows_a_reader_that_stays_is_an_error_and_the_old_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "PATIENCE", 0.05)
    path = tmp_path / "a.txt"
    path.write_text("old")
    with open(path, encoding="utf-8") as reader, pytest.raises(PermissionError) as error:
        atomic.write_text(path, "new")
    assert error.value.filename == str(path) and reader.closed
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
