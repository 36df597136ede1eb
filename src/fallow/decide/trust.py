"""Trust: whether a project may run an image, by where it comes from, how it is named, and who signed it.

The control plane asks this at a deploy, for an image job and for every pull; a node asks it again of what it is
granted.
"""

import functools
import re
from collections.abc import Iterable

import msgspec

from fallow.model.images import PullGrant
from fallow.model.references import DEFAULT_REGISTRY, Reference, parse_reference
from fallow.model.trust import TrustPolicy, TrustRules

SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
SIGNATURE_TYPE = "cosign container image signature"


def rules_of(policy: TrustPolicy) -> TrustRules:
    """Return what of a policy a node is told."""
    return TrustRules(
        project=policy.id, allow=policy.allow, require_digest=policy.require_digest, signed=bool(policy.keys)
    )


def pattern_trouble(pattern: str) -> str:
    """Return why a pattern could never match; empty when it could."""
    registry, repository = _parts(pattern)
    if "**" in pattern:
        return f"{pattern!r}: one * stands for any characters already"
    if not registry or not repository or repository.startswith("/"):
        return f"{pattern!r}: write REGISTRY/REPOSITORY, such as 'registry.example/shop/*', or '*' for all"
    if "@" in repository or ":" in repository:
        return f"{pattern!r}: tags and digests are no part of it"
    if repository != repository.lower():
        return f"{pattern!r}: repositories are lower case"
    return ""


def reference_trouble(rules: TrustRules, reference: Reference) -> str:
    """Return why a project may not use an image called so, in words; empty when it may, as far as its name goes."""
    if rules.allow and not any(_matches(pattern, reference) for pattern in rules.allow):
        shown = ", ".join(rules.allow[:5]) + (", ..." if len(rules.allow) > 5 else "")
        return f"project {rules.project} may not use {reference.name}: only {shown}"
    if rules.require_digest and not reference.digest:
        return f"project {rules.project} wants images by digest (name@sha256:...), and {reference.text} has a tag"
    return ""


def grant_trouble(grant: PullGrant, reference: str) -> str:
    """Return why a node must not pull what it is granted, in words; empty when it may.

    `reference` is what the node asked for. With rules that only a digest can satisfy, a grant must name one.
    """
    try:
        asked, granted = parse_reference(reference), parse_reference(grant.reference)
    except ValueError as error:
        return str(error)
    if asked != granted:
        return f"{asked.text} was asked for, and {granted.text} is granted"
    if asked.digest and grant.digest and asked.digest != grant.digest:
        return f"{asked.text} was asked for, and {grant.digest} is granted"
    if grant.trust is None:
        return ""
    if grant.image is None and grant.trust.signed:
        return f"project {grant.trust.project} wants signed images, and which bytes were signed is not told"
    return reference_trouble(grant.trust, asked)


def pulled_trouble(grant: PullGrant, manifest_digest: str) -> str:
    """Return why what an engine pulled is not what was granted; empty when it is, or when nothing exact was granted.

    `manifest_digest` is of the platform's manifest or of the index behind the reference that was pulled.
    """
    if grant.image is None or manifest_digest in (grant.image.manifest.digest, grant.digest):
        return ""
    return f"{grant.reference}: {grant.image.manifest.digest} was granted, and {manifest_digest[:80]} was pulled"


def payload_trouble(payload: bytes, digest: str) -> str:
    """Return why a signed payload says nothing of the image with this digest; empty when it does.

    The format is cosign's "simple signing": a signature taken from another image is good, but names another digest.
    """
    try:
        found = msgspec.json.decode(payload, type=_Payload).critical
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "what is signed cannot be read"
    if found.type != SIGNATURE_TYPE:
        return f"what is signed is no image, but {found.type[:80]!r}"
    if found.image.docker_manifest_digest != digest:
        return f"what is signed is another image: {found.image.docker_manifest_digest[:80]}"
    return ""


def statement_trouble(payload: bytes, digest: str) -> str:
    """Return why a signed statement is no signature of the image with this digest; empty when it is.

    The format is an in-toto statement 1 with cosign's predicate. One of another predicate says something of the image
    (how it was built, what was found in it), not that it may run.
    """
    try:
        found = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "what is signed cannot be read"
    if found.type != STATEMENT_TYPE or found.predicate_type != SIGN_PREDICATE:
        return f"what is signed is no image, but {found.type[:80]!r} with {found.predicate_type[:80]!r}"
    named = [f"sha256:{subject.digest.get('sha256', '')}" for subject in found.subject]
    if digest not in named:
        return f"what is signed is another image: {', '.join(named)[:80]}"
    return ""


def unsigned_text(project: str, reference: str, troubles: Iterable[str]) -> str:
    """Say that an image lacks a signature that counts, and what is wrong with those it has."""
    found = list(dict.fromkeys(troubles))
    why = "; ".join(found[:3]) if found else "it has none"
    return f"project {project} wants images that one of its keys has signed, and {reference} is not: {why}"


class _Image(msgspec.Struct, frozen=True, rename="kebab"):
    docker_manifest_digest: str


class _Critical(msgspec.Struct, frozen=True):
    image: _Image
    type: str


class _Payload(msgspec.Struct, frozen=True):
    critical: _Critical


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]


class _Statement(msgspec.Struct, frozen=True, kw_only=True):
    type: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")


def _matches(pattern: str, reference: Reference) -> bool:
    """Registry and repository match apart from each other, so that no repository can pose as a registry."""
    registry, repository = _parts(pattern)
    return bool(_compiled(registry).match(reference.registry) and _compiled(repository).match(reference.repository))


def _parts(pattern: str) -> tuple[str, str]:
    """Split a pattern as a reference is: `shop/*` is of docker.io, `*` alone is everything."""
    if pattern == "*":
        return "*", "*"
    first, slash, rest = pattern.partition("/")
    if not slash:
        return DEFAULT_REGISTRY, f"library/{pattern}"
    if first == "*" or "." in first or ":" in first or first == "localhost":
        return first, rest
    return DEFAULT_REGISTRY, pattern


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "[^/]"}
    return re.compile("".join(parts.get(each) or re.escape(each) for each in pattern) + r"\Z")
