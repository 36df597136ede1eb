"""The small disk that tells a machine how to join: cloud-init's NoCloud format, and the same in plain files.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

import io
import json
import re
from functools import cache
from pathlib import Path

from fallow.drivers.machine.contract import Seed
from fallow.drivers.machine.imaging import debian
from fallow.drivers.machine.iso import write_iso

LABEL = "cidata"
SIZE_BYTES = 1024 * 1024  # always: it is overwritten in place while a machine reads it
# What a machine says on its console, where others write too.
_PROBLEM = "fallow: problem: "
_SAYS = re.compile(rf"fallow: joining|{_PROBLEM}[^\r\n]*")

_CLOUD = Path(debian.__file__).parent / "cloud_skeleton"
_UNIT = f"etc/systemd/system/{debian.UNIT}"
# The same as in our own images, and before it what other images may lack.
_FILES = (
    (debian.FILES, "usr/local/sbin/fallow-first-boot"),
    (debian.FILES, _UNIT),
    (_CLOUD, "usr/local/sbin/fallow-prepare"),
    (_CLOUD, f"{_UNIT}.d/prepare.conf"),
)
_BEGIN = f"""\
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable {debian.UNIT}
    systemctl start --no-block {debian.UNIT}
else
    echo "{_PROBLEM}its image does not run systemd: take one that does" >/dev/ttyS0
fi
"""


def seed_image(vm_id: str, seed: Seed) -> bytes:
    """Return an ISO 9660 image of SIZE_BYTES. Without a token it holds no secret, and differs in nothing else."""
    user_data = {
        "hostname": seed.name,
        "ssh_pwauth": False,
        "write_files": _files(),
        "runcmd": [["sh", "-c", _BEGIN]],
    }
    files = {
        "meta-data": json.dumps({"instance-id": f"fallow-{vm_id}", "local-hostname": seed.name}),
        "user-data": "#cloud-config\n" + json.dumps(user_data),
        "name": seed.name,
        "url": seed.url,
        "token": seed.token,
    }
    out = io.BytesIO()
    write_iso(out, LABEL, {name: text.encode() for name, text in files.items()})
    image = out.getvalue()
    if len(image) > SIZE_BYTES:
        raise ValueError(f"the seed of {vm_id} is longer than {SIZE_BYTES} bytes")
    return image.ljust(SIZE_BYTES, b"\0")


@cache
def _files() -> list[dict[str, str]]:
    """Return what cloud-init writes at the first start."""
    found = []
    for folder, name in _FILES:
        text = (folder / name).read_text(encoding="utf-8")
        mode = "0755" if text.startswith("#!") else "0644"
        found.append({"path": f"/{name}", "permissions": mode, "content": text})
    return found


def problem_told(console: str) -> str:
    """Return why a machine says that it cannot join, empty when it does not; what it says is not to be believed."""
    said = _SAYS.findall(console)
    told = "".join(filter(str.isprintable, said[-1])) if said else ""
    return told.removeprefix(_PROBLEM)[:300] if told.startswith(_PROBLEM) else ""
