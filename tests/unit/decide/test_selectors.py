"""Selectors: what is accepted, what is refused and how, and what matches."""

import pytest

from fallow.decide.matching import matches
from fallow.decide.selectors import MAX_LENGTH, SelectorError, format_selector, parse_selector
from fallow.model.labels import Requirement, Selector

ACCEPTED = [
    ("", ""),
    ("   ", ""),
    ("role=web", "role=web"),
    ("role==web", "role=web"),
    (" role = web ", "role=web"),
    ("role=", "role="),
    ("tier!=db", "tier!=db"),
    ("zone in (a,b)", "zone in (a,b)"),
    ("zone in(a , b, a)", "zone in (a,b)"),
    ("zone in (a)", "zone=a"),
    ("zone notin (a,b)", "zone notin (a,b)"),
    ("gpu", "gpu"),
    ("!gpu", "!gpu"),
    ("! gpu", "!gpu"),
    ("in in (in,notin)", "in in (in,notin)"),
    ("notin", "notin"),
    ("inside", "inside"),
    ("disk.free>20Gi", "disk.free>20Gi"),
    ("disk.free >= 0.5TiB", "disk.free>=0.5TiB"),
    ("cpus<4", "cpus<4"),
    ("cpus<=4", "cpus<=4"),
    ("example.com/rack=r1,!gpu,cpus>2", "example.com/rack=r1,!gpu,cpus>2"),
    ("label:role=web, var:rack = r7 ,node:name in (a,b)", "label:role=web,var:rack=r7,node:name in (a,b)"),
    ("!var:gpu,node:state!=ready", "!var:gpu,node:state!=ready"),
    ("@web-east,!@spare", "@web-east,!@spare"),
    ("net.speed=10Gbit/s", "net.speed=10Gbit/s"),
    ("uptime>=1h30m", "uptime>=1h30m"),
    ('os="Debian GNU/Linux 12"', 'os="Debian GNU/Linux 12"'),
    ('rack="r7"', "rack=r7"),
    ('a="say \\"hi\\" \\\\ bye"', 'a="say \\"hi\\" \\\\ bye"'),
    ('a in ("x y",z)', 'a in ("x y",z)'),
    ('a=""', "a="),
]


@pytest.mark.parametrize(("text", "written"), ACCEPTED)
def test_selector_accepted(text: str, written: str) -> None:
    selector = parse_selector(text)
    assert format_selector(selector) == written
    assert parse_selector(written) == selector


REFUSED = [
    ("a,,b", 2, "expected a label key"),
    ("a,", 2, "expected a label key"),
    (",a", 0, "expected a label key at its beginning"),
    ("a b", 2, "expected a comma or the end"),
    ("a=b c", 4, "expected a comma or the end"),
    ("a=b$", 3, "expected a comma or the end"),
    ("a=b\n", 3, "expected a comma or the end"),
    ("!", 1, "expected a label key"),
    ("!a=b", 2, "expected a comma or the end"),
    ("-a=b", 0, "'-a' is not a label key"),
    ("a" * 64, 0, "is not a label key"),
    ("a=-b", 2, "'-b' is not a label value"),
    ("a=b/c", 2, "'b/c' is not a label value"),
    ("a in b", 5, "expected '('"),
    ("a in ()", 6, "expected a value"),
    ("a in (b,)", 8, "expected a value"),
    ("a in (b", 7, "expected ',' or ')'"),
    ("a>", 2, "expected an amount such as 20, 20GiB, 3d or 10Gbit/s behind '>'"),
    ("a>b", 2, "expected an amount"),
    ("a>20X", 2, "expected an amount"),
    ("a>-1", 2, "expected an amount"),
    ("node:color=red", 5, "'color' is not one of node:name, node:id"),
    ("env:a=b", 0, "'env' is no place to look; there are label:, var: and node:"),
    ("var:=b", 4, "'' is not a label key"),
    ("var: a", 4, "'' is not a label key"),
    ("@", 1, "'' is not the name of a label set"),
    ("!@Web", 2, "'Web' is not the name of a label set"),
    ("@web=1", 4, "expected a comma or the end"),
    ('a="b', 4, "expected a closing quote"),
    ('a="b\\c"', 4, "expected a closing quote"),
    ('a="b\nc"', 2, "only such as can be printed"),
    ('a="\x00"', 2, "only such as can be printed"),
    ('a="\u202e"', 2, "only such as can be printed"),
    ('a in ("")', 8, "expected a value"),
    ("a=$(reboot)", 2, "expected a comma or the end"),
    ("a=b;rm", 3, "expected a comma or the end"),
    ("a=\u00e9", 2, "expected a comma"),
    ("a" * (MAX_LENGTH + 1), 0, "at most 1024 characters"),
]


@pytest.mark.parametrize(("text", "position", "message"), REFUSED)
def test_selector_refused_with_position_and_example(text: str, position: int, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert message in str(caught.value)
    assert "example: role=web" in str(caught.value)
    assert caught.value.position == position
    assert len(str(caught.value)) < 400


LABELS = {"role": "web", "zone": "a", "disk.free": "64Gi", "cpus": "4", "name": "4x", "empty": ""}

MATCHING = [
    ("", True),
    ("role=web", True),
    ("role=db", False),
    ("gone=web", False),
    ("gone=", False),
    ("empty=", True),
    ("role!=db", True),
    ("role!=web", False),
    ("gone!=web", True),
    ("zone in (a,b)", True),
    ("zone in (b,c)", False),
    ("gone in (b,c)", False),
    ("zone notin (a,b)", False),
    ("zone notin (b,c)", True),
    ("gone notin (b,c)", True),
    ("role", True),
    ("gone", False),
    ("!role", False),
    ("!gone", True),
    ("disk.free>20Gi", True),
    ("disk.free>64Gi", False),
    ("disk.free>=64Gi", True),
    ("disk.free<65Gi", True),
    ("disk.free<=0.0625Ti", True),
    ("disk.free>68719476735", True),
    ("cpus>=4", True),
    ("cpus<4", False),
    ("cpus<=4", True),
    ("name>1", False),
    ("name<100", False),
    ("gone<100", False),
    ("role=web,zone=a,cpus>2", True),
    ("role=web,zone=b,cpus>2", False),
]


@pytest.mark.parametrize(("text", "expected"), MATCHING)
def test_selector_matches(text: str, expected: bool) -> None:
    assert matches(parse_selector(text), LABELS) is expected


def test_selector_a_comparison_with_an_unreadable_bound_never_holds() -> None:
    stored = Selector(requirements=(Requirement(key="cpus", operator="gt", values=("many",)),))
    assert not matches(stored, {"cpus": "4"})
