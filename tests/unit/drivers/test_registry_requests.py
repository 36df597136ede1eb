"""Where a login may go: what registries ask for is read strictly, and redirects lead to nothing less safe."""

import pytest
from yarl import URL

from fallow.drivers.registry import Access, RegistryError
from fallow.drivers.registry.answers import retry_after
from fallow.drivers.registry.challenge import Basic, Bearer, parse_challenge
from fallow.drivers.registry.requests import _redirected, _url
from fallow.model.images import RegistryLogin


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', Basic()),
        ("basic", Basic()),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"',
            Bearer("https://auth.docker.io/token", "registry.docker.io"),
        ),
        ('BEARER  Realm = "https://a.example/t?x=1" , SERVICE = s', Bearer("https://a.example/t?x=1", "s")),
        ('Negotiate, Basic realm="a, b=c"', Basic()),
        ('Digest qop="auth", nonce=x, Bearer realm="https://a.example/t"', Bearer("https://a.example/t", "")),
        ('Bearer realm="https://a.example/t",service="a \\"b\\""', Bearer("https://a.example/t", 'a "b"')),
    ],
)
def test_challenges(header: str, found: Basic | Bearer):
    assert parse_challenge(header, insecure=False) == found


@pytest.mark.parametrize(
    "realm",
    [
        "http://a.example/token",
        "//a.example/token",
        "a.example/token",
        "/token",
        "ftp://a.example",
        "https://",
        "https://user:pw@a.example/",
        "https://a.example/#x",
        "https://a.example\\\\@b.example/",
        "https://a.example/ x",
        "https://ä.example/",
    ],
)
def test_a_login_goes_to_no_such_realm(realm: str):
    with pytest.raises(ValueError, match="registry"):
        parse_challenge(f'Bearer realm="{realm}"', insecure=False)


def test_plain_http_only_where_it_was_said():
    assert parse_challenge('Bearer realm="http://a.example/t"', insecure=True) == Bearer("http://a.example/t", "")


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("https://cdn.example/blob?sig=a%2Fb", "https://cdn.example/blob?sig=a%2Fb"),
        ("/v2/x", "https://registry.example/v2/x"),
        ("//cdn.example/x", "https://cdn.example/x"),
    ],
)
def test_redirects(place: str, target: str):
    assert str(_redirected(URL("https://registry.example/v2/a"), place)) == target


@pytest.mark.parametrize(
    "place",
    ["http://registry.example/v2/a", "http://cdn.example/", "file:///etc/passwd", "https://u:p@cdn.example/", ""],
)
def test_redirects_to_less_safe_places(place: str):
    with pytest.raises(RegistryError) as caught:
        _redirected(URL("https://registry.example/v2/a"), place)
    assert caught.value.kind == "failed"


def test_docker_hub_is_elsewhere():
    assert str(_url(Access(host="docker.io"), "library/nginx", "manifests/1")) == (
        "https://registry-1.docker.io/v2/library/nginx/manifests/1"
    )
    assert str(_url(Access(host="[::1]:5000", insecure=True), "", "")) == "http://[::1]:5000/v2/"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("99999999999999999999", 86400.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 99 Jan 2027 07:00:00 GMT", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after(value: str, seconds: float):
    assert retry_after(value, 1_800_000_000.0) == seconds


def test_a_login_is_not_shown():
    login = RegistryLogin(username="ci", password="hunter2")
    assert "hunter2" not in repr(Access(host="a", login=login)) + str(login) + f"{[login]}"
