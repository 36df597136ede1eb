"""Small read-only disks as ISO 9660, which every system mounts without further programs."""

import io
from collections.abc import Mapping
from typing import BinaryIO

import pycdlib


def write_iso(out: BinaryIO, label: str, files: Mapping[str, bytes]) -> None:
    """Write a disk with this label that has these files at its top. Raises OSError."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    for number, (name, content) in enumerate(files.items()):
        iso.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write_fp(out)
    iso.close()
