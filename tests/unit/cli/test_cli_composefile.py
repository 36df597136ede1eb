"""What goes along with a Compose file: what it names, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallow.cli.composefile import collect, parse_env, references
from fallow.cli.failures import Exit, Failure

SERVICE = "services:\n  web:\n    image: web\n"


def _file(folder: Path, text: str, **others: str) -> str:
    (folder / "compose.yaml").write_text(text)
    for name, content in others.items():
        (folder / name.replace("__", ".")).write_text(content)
    return str(folder / "compose.yaml")


def test_only_variables_the_file_names_are_sent(home: Path) -> None:
    text = SERVICE.replace("image: web", "image: $REG/web:${TAG:-${FALLBACK}}  # $$NOT ${ UNSET")
    environment = {"REG": "r", "TAG": "1", "FALLBACK": "f", "NOT": "n", "HOME": "/root", "AWS_SECRET": "s"}
    assert collect(_file(home, text), environment).variables == {"REG": "r", "TAG": "1", "FALLBACK": "f"}


def test_variables_without_a_value_come_from_here(home: Path) -> None:
    text = SERVICE + "    environment: [A, B=1, C=$D]\n  api:\n    image: x\n    environment: {E: null, F: 2, G: ''}\n"
    environment = dict.fromkeys("ABCDEFG", "v")
    assert set(collect(_file(home, text), environment).variables) == {"A", "D", "E"}


def test_the_process_wins_over_the_env_file_beside(home: Path) -> None:
    file = _file(home, SERVICE + "    user: $A-$B\n", __env="A=file\nB='two words' # why\nSECRET=x\n")
    assert collect(file, {"A": "process"}).variables == {"A": "process", "B": "two words"}


def test_env_files_are_read_beside_the_file_and_keep_their_written_path(home: Path) -> None:
    (home / "sub").mkdir()
    text = SERVICE + "    env_file:\n      - ./${STAGE}.env\n      - path: missing.env\n        required: false\n"
    file = _file(home / "sub", text, prod__env="A=$B\nC\nexport D\n", other__env="no")
    collected = collect(file, {"STAGE": "prod", "B": "b", "C": "c", "D": "d", "A": "a"})
    assert collected.env_files == {"./${STAGE}.env": "A=$B\nC\nexport D\n"}
    assert collected.variables == {"STAGE": "prod", "B": "b", "C": "c", "D": "d"}
    assert "A=$B" not in repr(collected)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SERVICE + "    env_file: gone.env\n", "gone.env cannot be read"),
        (SERVICE + "    env_file: big.env\n", "larger than"),
        (SERVICE + "    env_file: binary.env\n", "not UTF-8"),
    ],
)
def test_files_that_cannot_be_sent(home: Path, text: str, told: str) -> None:
    (home / "binary.env").write_bytes(b"A=\xff\xfe")
    file = _file(home, text, big__env="A=" + "x" * 1_100_000)
    with pytest.raises(Failure, match=told) as caught:
        collect(file, {})
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("text", ["", "[", "- a", "services: 3", "services: {a: 1}", "a: !!python/object:x.y {}", "\0"])
def test_what_is_no_compose_file_is_left_to_the_control_plane(home: Path, text: str) -> None:
    collected = collect(_file(home, text), {})
    assert (collected.text, collected.env_files) == (text, {})


@pytest.mark.parametrize(("text", "names"), [("name: shop\n" + SERVICE, True), (SERVICE, False)])
def test_whether_the_file_names_its_project(home: Path, text: str, names: bool) -> None:
    assert collect(_file(home, text), {}).names_project is names


def test_dotenv_lines() -> None:
    text = "# c\nA=1\n export B = two # note\nC=\"x # y\"\nD='$E'\nF=\nnonsense\n9=no\nG=a=b#c\n"
    assert parse_env(text) == {"A": "1", "B": "two", "C": "x # y", "D": "$E", "F": "", "G": "a=b#c"}


@given(st.text(alphabet="${}AB_:-?+ \n", max_size=60))
def test_references_end_and_are_names(text: str) -> None:
    assert all(name.isidentifier() for name in references(text))
