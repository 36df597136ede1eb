"""What an etcd URL may say, and that no password is ever repeated."""

import pytest

from fallow.store.contract import StoreError
from fallow.store.etcd_url import EtcdUrl, parse


def test_members_prefix_and_files(tmp_path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(name)
    (tmp_path / "password").write_text("s3cret\n")
    found = parse(
        f"//a,b:1234,[::1]:5,[::2],a:2379/one/two?ca={tmp_path}/ca&cert={tmp_path}/cert&key={tmp_path}/key"
        f"&password_file={tmp_path}/password&max_txn_ops=1024&places=west/1,west/2,east,east",
        {"FALLOW_STORE_USER": "ann", "FALLOW_STORE_PASSWORD": "other"},
    )
    assert found == EtcdUrl(
        endpoints=("a:2379", "b:1234", "[::1]:5", "[::2]:2379"),
        prefix="/one/two/",
        ca=b"ca",
        certificate=b"cert",
        private_key=b"key",
        user="ann",
        password="s3cret",
        max_txn_ops=1024,
        places=(("west", "1"), ("west", "2"), ("east", ""), ("east", "")),
    )
    assert "s3cret" not in repr(found)
    assert "private" not in repr(found)


@pytest.mark.parametrize("rest", ["//h", "//h/", "//h:2379//"])
def test_without_a_path_the_prefix_is_ours(rest) -> None:
    assert parse(rest, {}) == EtcdUrl(endpoints=("h:2379",), prefix="/fallow/")


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", "is named as etcd://"),
        ("h:2379", "is named as etcd://"),
        ("///path", "is named as etcd://"),
        ("//ann:s3cret@h", "no user and no password.*FALLOW_STORE_USER"),
        ("//h:port", "'h:port' is not the address"),
        ("//h:70000", "'h:70000' is not the address"),
        ("//a,,b", "'' is not the address"),
        ("//h?password=s3cret", "no option 'password'"),
        ("//h?ca=", "given once, with a value"),
        ("//h?ca=a&ca=b", "given once, with a value"),
        ("//h?cert=c&ca=a", "cert and key of an etcd URL go together"),
        ("//h?cert=c&key=k", "needs ca"),
        ("//h?max_txn_ops=7", "what etcd was started with"),
        ("//h?max_txn_ops=x", "what etcd was started with"),
        ("//a,b?places=west", "places are REGION or REGION/ZONE of each of the 2 members"),
        ("//h?places=west/1/2", "places are REGION"),
        ("//h?places=we st", "places are REGION"),
    ],
)
def test_what_is_no_etcd_url_is_refused(rest, told) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse(rest, {})
    assert "s3cret" not in str(caught.value)


def test_a_user_needs_a_password_and_the_other_way_round(tmp_path) -> None:
    with pytest.raises(ValueError, match="FALLOW_STORE_USER is given for etcd, but not a password"):
        parse("//h", {"FALLOW_STORE_USER": "ann"})
    with pytest.raises(ValueError, match="a password is given for etcd, but not FALLOW_STORE_USER") as caught:
        parse("//h", {"FALLOW_STORE_PASSWORD": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(StoreError, match="cannot read /no/such, which the etcd URL names: No such file"):
        parse("//h?ca=/no/such", {})
