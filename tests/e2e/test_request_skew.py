"""Requests of this release at a control plane of the one before, which refuses fields that it does not know."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from releases import earlier

import fallow.model

FIELDS = """
import importlib, pkgutil, msgspec, fallow.model
found = {}
for info in pkgutil.iter_modules(fallow.model.__path__):
    for name, kind in vars(importlib.import_module("fallow.model." + info.name)).items():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.forbid_unknown_fields:
            found[name] = [field.name for field in msgspec.structs.fields(kind)]
print(msgspec.json.encode(found).decode())
"""


@pytest.fixture
def known(tmp_path: Path) -> dict[str, list[str]]:
    """Return the fields of requests that the earlier release knows, by the request's name."""
    environment = {**os.environ, "PYTHONPATH": str(earlier(tmp_path))}
    told = subprocess.run(
        [sys.executable, "-P", "-c", FIELDS], env=environment, capture_output=True, text=True, check=True
    )
    return msgspec.json.decode(told.stdout, type=dict[str, list[str]])


def test_what_an_earlier_release_does_not_know_is_said_only_when_it_is_meant(known: dict[str, list[str]]) -> None:
    modules = [
        importlib.import_module(f"fallow.model.{info.name}") for info in pkgutil.iter_modules(fallow.model.__path__)
    ]
    now = {name: kind for module in modules for name, kind in vars(module).items() if name in known}
    assert len(now) > 20
    said = [
        f"{name}.{field.name}"
        for name, kind in now.items()
        for field in msgspec.structs.fields(kind)
        if field.name not in known[name]
        and not (kind.__struct_config__.omit_defaults or field.default is msgspec.UNSET)
    ]
    assert said == [], "omit_defaults=True, or UNSET as default"
