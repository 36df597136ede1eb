"""Data folders: closed to everybody else, unless closing them would take away what others use."""

from pathlib import Path

import pytest

from fallow.drivers.folders import FolderError, make_private

OURS = ("ca", "fallow.db")


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.mark.parametrize("before", [0o755, 0o777, 0o710, 0o700])
def test_a_folder_that_was_made_for_us_is_closed(tmp_path: Path, before: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "server.log").touch()
    folder.chmod(before)
    make_private(folder, OURS)
    assert mode(folder) == 0o700


def test_a_new_folder_is_private_at_once(tmp_path: Path) -> None:
    make_private(tmp_path / "a/b", OURS)
    assert mode(tmp_path / "a/b") == 0o700


def test_our_own_folder_that_somebody_opened_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "data/ca").mkdir(parents=True)
    (tmp_path / "data").chmod(0o755)
    make_private(tmp_path / "data", OURS)
    assert mode(tmp_path / "data") == 0o700


@pytest.mark.parametrize(("inside", "before"), [("log", 0o755), ("x", 0o775), (None, 0o1777)])
def test_what_others_use_is_left_as_it_is_and_refused(tmp_path: Path, inside: str | None, before: int) -> None:
    folder = tmp_path / "var"
    folder.mkdir()
    if inside:
        (folder / inside).mkdir()
    folder.chmod(before)
    with pytest.raises(FolderError, match="chmod 700"):
        make_private(folder, OURS)
    assert mode(folder) == before


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be made private"):
        make_private(tmp_path / "file", OURS)
