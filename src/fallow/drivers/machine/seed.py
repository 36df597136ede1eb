"""The small disk that tells a machine how to join: cloud-init's NoCloud format, and the same in plain files.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

import io
import json

import pycdlib

from fallow.drivers.machine.contract import Seed

LABEL = "cidata"
SIZE_BYTES = 1024 * 1024  # always: it is overwritten in place while a machine reads it

# What a machine with cloud-init does with it, when it has an engine and an agent: the same as our own images do.
_JOIN = """\
mkdir -p /run/fallow-seed && mount -o ro -L cidata /run/fallow-seed || exit 0
if [ -s /run/fallow-seed/token ]; then
  umask 077
  fallow join --install --name "$(cat /run/fallow-seed/name)" "$(cat /run/fallow-seed/url)" - </run/fallow-seed/token
fi
umount /run/fallow-seed
"""


def seed_image(vm_id: str, seed: Seed) -> bytes:
    """Return an ISO 9660 image of SIZE_BYTES. Without a token it holds no secret, and differs in nothing else."""
    user_data = {
        "hostname": seed.name,
        "ssh_pwauth": False,
        "runcmd": [["sh", "-c", _JOIN]],
    }
    files = {
        "meta-data": json.dumps({"instance-id": f"fallow-{vm_id}", "local-hostname": seed.name}),
        "user-data": "#cloud-config\n" + json.dumps(user_data),
        "name": seed.name,
        "url": seed.url,
        "token": seed.token,
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(files.items()):
        content = text.encode()
        iso.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    image = out.getvalue()
    if len(image) > SIZE_BYTES:
        raise ValueError(f"the seed of {vm_id} is longer than {SIZE_BYTES} bytes")
    return image.ljust(SIZE_BYTES, b"\0")
