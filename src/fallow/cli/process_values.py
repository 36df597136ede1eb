"""What the options of the commands that run until they are stopped may say, read from the texts they are given as."""

import ipaddress
import os
import re

from fallow.cli.failures import sentence, usage
from fallow.cli.launchers import DNS_OFF
from fallow.cli.options import key_values, seconds, secret
from fallow.model.credentials import parse_join_credential
from fallow.model.labels import Variable, is_label, typed_variable, variables_problem
from fallow.model.meta import is_name
from fallow.model.names import domain_name
from fallow.model.servers import Primary, parse_primaries
from fallow.model.units import parse_bytes
from fallow.model.watermarks import Watermarks, parse_watermarks

JOIN_TOKEN = "FALLOW_JOIN_TOKEN"  # noqa: S105 - the name of a variable
MIN_IMAGE_RATE = 1024**2
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]*):(\d{1,5})")


def kept(option: str, text: str) -> float:
    """Read for how long a record is kept, in seconds. Raises Failure."""
    found = seconds(text)
    if found <= 0:
        raise usage(f"{option} must be longer than nothing")
    return found


def listening(text: str) -> str:
    """Read an address to listen at, `host:port`. Raises Failure."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 <= int(match[2]) <= 65535:
        raise usage(
            f"{text!r} is not an address to listen at", "Write HOST:PORT, for example 0.0.0.0:7443 or [::]:7443."
        )
    return text


def serving_names(texts: list[str] | None) -> tuple[str, ...]:
    """Read where names are served: addresses, or `off` alone. Raises Failure."""
    if texts and DNS_OFF in texts and len(texts) > 1:
        raise usage("--dns-listen off goes with no other --dns-listen")
    for text in texts or ():
        match = _ADDRESS.fullmatch(text)
        if text != DNS_OFF and (match is None or not match[1] or not 1 <= int(match[2]) <= 65535):
            raise usage(
                f"{text!r} is not an address to serve names at",
                "Write HOST:PORT with the machine's own address, for example 0.0.0.0:53 or [::]:53, or off.",
            )
    return tuple(texts or ())


def domain(text: str) -> str:
    """Read the domain of all names. Raises Failure."""
    try:
        return domain_name(text)
    except ValueError as error:
        raise usage(sentence(str(error))) from None


def advertised(text: str) -> str:
    """Read what members dial for their session, `host` or `host:port`. Raises Failure."""
    match = _ADDRESS.fullmatch(text if text.rpartition("]")[2].count(":") else f"{text}:1")
    if text and (match is None or not 1 <= int(match[2]) <= 65535):
        raise usage(f"{text!r} is not a host members can dial", "Write HOST or HOST:PORT.")
    return text


def place(option: str, text: str) -> str:
    """Read the name of a region or a zone: a label's value. Raises Failure."""
    if not is_label("place", text):
        raise usage(f"{option}: {text!r} cannot be a name", "Use at most 63 letters, digits, '.', '_' and '-'.")
    return text


def url(text: str) -> str:
    """Read the URL of a control plane. Raises Failure."""
    if text and not re.fullmatch(r"https://[^\s/@?#]+/?", text):
        raise usage(f"{text!r} is not the URL of a control plane", "Write https://HOST:7443.")
    return text.rstrip("/")


def join_token(url: str, given: str) -> str:
    """Read a join token: given, on standard input, or with a URL from the environment. Raises Failure."""
    text = secret(given, os.environ.get(JOIN_TOKEN, "") if url else "", "")
    if not text:
        if given == "-":
            raise usage("There is no join token on standard input")
        return ""
    try:
        return parse_join_credential(text).text()
    except ValueError as error:
        raise usage(sentence(str(error)), "`fallow token create` makes one.") from error


def name(text: str) -> str:
    """Read a member's name. Raises Failure."""
    if text and not is_name(text):
        raise usage(f"{text!r} cannot be a name", "Use at most 40 of a-z, 0-9 and -, beginning with a letter.")
    return text


def interface(text: str) -> str:
    """Read the name of a bridge. Raises Failure."""
    if text and not re.fullmatch(r"[^\s/]{1,15}", text):
        raise usage(f"{text!r} cannot be the name of a bridge", "Write it as `ip link` shows it, such as br0.")
    return text


def group(text: str) -> str:
    """Read a control group, from the root. Raises Failure."""
    if text and not re.fullmatch(r"(/(?!\.\.?(/|$))[\w.@:\\-]+)+", text):
        raise usage(f"{text!r} is not a control group", "Write it from the root, such as /fallow.slice/a.slice.")
    return text


def own_address(text: str) -> str:
    """Read the IP address a member wishes for. Raises Failure."""
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise usage(f"{text!r} is not an IP address", "Write it as 10.86.0.7 or fd00:86::7.") from None


def primaries(texts: list[str] | None) -> tuple[Primary, ...]:
    """Read what a server is for. Raises Failure."""
    try:
        return parse_primaries(",".join(texts)) if texts else ()
    except ValueError as error:
        raise usage(f"--primary: {error}", "Example: --primary systemd:postgresql.service,process:java") from None


def watermarks(text: str) -> Watermarks | None:
    """Read when images are cleaned; None: never. Raises Failure."""
    try:
        return parse_watermarks(text)
    except ValueError as error:
        raise usage(f"--clean-images: {error}") from None


def image_rate(text: str) -> int:
    """Read how many bytes of images a node gives to others each second; 0: no bound. Raises Failure."""
    try:
        found = parse_bytes(text) if text else 0
    except ValueError as error:
        raise usage(f"--image-rate: {error}") from None
    if text and found < MIN_IMAGE_RATE:
        raise usage(f"--image-rate {text} is too little", "Others would take this node for dead; give 1MiB or more.")
    return found


def variables(texts: list[str] | None) -> tuple[Variable, ...]:
    """Read `NAME=VALUE` and `NAME:TYPE=VALUE`. Raises Failure."""
    found = []
    for key, value in key_values(texts or [], "variable"):
        name, _, type_ = key.partition(":")
        try:
            found.append(typed_variable(name, value, type_))
        except ValueError as error:
            raise usage(
                f"{key}={value} cannot be a variable", f"{sentence(str(error))} Example: --var disk.size:bytes=2TiB"
            ) from None
    problem = variables_problem(found)
    if problem:
        raise usage("These variables cannot be told together", f"{sentence(problem)} Leave some out.")
    return tuple(found)
