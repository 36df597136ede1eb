"""`--on`: whom an image job is for, as people write it."""

import re
from typing import Annotated

import typer

from fallow.cli import completion
from fallow.cli.failures import usage
from fallow.model.image_jobs import ImageTarget

EVERYBODY = "all"

_SHARE = re.compile(r"([1-9][0-9]?|100)%(?::(.*))?\Z", re.DOTALL)
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(,[A-Za-z0-9][A-Za-z0-9-]*)*\Z")

On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="NODES",
        help="`all`, nodes by name (a,b), a selector (role=web, 'disk.free<20GiB', @set, label:gpu), or a share of "
        "one (10%:role=web).",
        show_default=False,
        autocompletion=completion.targets,
    ),
]


def target_of(text: str) -> ImageTarget:
    """Read what `--on` says. A bare word is a node's name; that a label is there at all is `label:gpu`.

    Raises Failure.
    """
    if not text.strip():
        raise usage("On which nodes?", "Say --on all, --on NAME or --on SELECTOR, for example --on role=web.")
    percent, rest = 100, text.strip()
    share = _SHARE.match(rest)
    if share is not None:
        percent, rest = int(share[1]), (share[2] or EVERYBODY).strip()
    if rest == EVERYBODY:
        return ImageTarget(percent=percent)
    if _NAMES.match(rest):
        return ImageTarget(names=tuple(dict.fromkeys(rest.split(","))), percent=percent)
    return ImageTarget(selector=rest, percent=percent)
