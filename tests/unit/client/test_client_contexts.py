"""The contexts file: private, never half written, and overridden by the environment."""

import stat
from pathlib import Path

import pytest

from fallow.client.contexts import (
    Context,
    Contexts,
    ContextsError,
    NoContext,
    contexts_path,
    load_contexts,
    resolve,
    save_context,
    save_contexts,
)

PROD = Context(name="prod", url="https://prod:1", token="fallow-api.a.hunter2", ca_pem="PEM", project="shop")
DEV = Context(name="dev", url="https://dev:1", token="fallow-api.b.hunter2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "fallow" / "contexts.json"


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert contexts_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/fallow/contexts.json")
    for ignored in ("", "relative"):
        assert contexts_path({"XDG_CONFIG_HOME": ignored}) == tmp_path / ".config/fallow/contexts.json"


def test_it_comes_back_as_it_went(path: Path) -> None:
    assert load_contexts(path) == Contexts()
    save_context(PROD, path=path)
    save_context(DEV, use=False, path=path)
    assert load_contexts(path) == Contexts(current="prod", contexts=(DEV, PROD))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_an_open_file_becomes_private_when_it_is_written(path: Path) -> None:
    save_context(PROD, path=path)
    path.chmod(0o644)
    save_context(DEV, path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_context(PROD, path=path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ContextsError, match="No space left"):
        save_context(DEV, path=path)
    assert load_contexts(path).contexts == (PROD,)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"contexts":[{"name":"x"}]}', '{"contexts":5}', "\xff"])
def test_a_damaged_file_is_told(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ContextsError, match=r"contexts\.json is damaged"):
        load_contexts(path)
    with pytest.raises(ContextsError):
        save_context(DEV, path=path)
    assert path.read_text(encoding="latin-1") == text


def test_an_unreadable_file_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ContextsError, match="cannot be read"):
        load_contexts(path)


def test_which_one_is_meant(path: Path) -> None:
    save_contexts(Contexts(current="prod", contexts=(DEV, PROD)), path)
    assert resolve("", {}, path) == PROD
    assert resolve("dev", {}, path) == DEV
    assert resolve("", {"FALLOW_CONTEXT": "dev"}, path) == DEV
    assert resolve("prod", {"FALLOW_CONTEXT": "dev"}, path) == PROD
    with pytest.raises(ContextsError, match="known: dev, prod"):
        resolve("x", {}, path)


def test_none_is_meant(path: Path) -> None:
    with pytest.raises(NoContext):
        resolve("", {}, path)
    save_contexts(Contexts(current="gone", contexts=(DEV,)), path)
    with pytest.raises(NoContext, match="chosen"):
        resolve("", {}, path)


def test_the_environment_overrides_fields(path: Path, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("OTHER")
    save_context(PROD, path=path)
    found = resolve("", {"FALLOW_TOKEN": "t", "FALLOW_PROJECT": "p", "FALLOW_CA_FILE": str(tmp_path / "ca")}, path)
    assert (found.url, found.token, found.project, found.ca_pem) == ("https://prod:1", "t", "p", "OTHER")
    with pytest.raises(ContextsError, match="FALLOW_CA_FILE"):
        resolve("", {"FALLOW_CA_FILE": str(tmp_path / "gone")}, path)


def test_a_url_of_the_environment_stands_alone(path: Path) -> None:
    save_context(PROD, path=path)
    found = resolve("", {"FALLOW_URL": "https://other:1"}, path)
    assert (found.url, found.token, found.ca_pem) == ("https://other:1", "", "")


def test_a_stored_token_goes_elsewhere_only_when_its_ca_vouches(path: Path, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("OTHER")
    save_contexts(Contexts(contexts=(DEV, PROD)), path)
    elsewhere = {"FALLOW_URL": "https://other:1"}
    assert resolve("prod", elsewhere, path).token == PROD.token
    assert resolve("dev", elsewhere, path).token == ""
    assert resolve("prod", {**elsewhere, "FALLOW_CA_FILE": str(tmp_path / "ca")}, path).token == ""


def test_tokens_are_in_no_repr() -> None:
    assert "hunter2" not in repr(Contexts(contexts=(PROD, DEV)))


def test_without_the_current_one_none_is_current() -> None:
    both = Contexts(current="prod", contexts=(DEV, PROD))
    assert both.without("prod") == Contexts(contexts=(DEV,))
    assert both.without("dev") == Contexts(current="prod", contexts=(PROD,))
