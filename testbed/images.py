"""Small images made from what is installed, without the internet and without a build tool, and pushed to a registry.

Formats: Docker image manifest, version 2 schema 2 (https://distribution.github.io/distribution/spec/manifest-v2-2/),
pushed through the registry's HTTP API, version 2.
"""

import base64
import functools
import gzip
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.blobs import digest_of, tar_of
from testbed.processes import TestbedError, run

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_SHOP = Path(__file__).parent.parent / "examples" / "shop" / "app.py"
INTERPRETER = str(Path(sys.executable).resolve())  # behind a virtual environment: the one its libraries lie beside
ARCHITECTURE = _ARCHITECTURES.get(platform.machine(), platform.machine())


# Lists the files of what a program imports, without TLS, whose libraries are larger than all the rest, and with what
# asyncio imports only when it first looks up a name.
_LIST_MODULES = """
import json, runpy, sys
sys.modules.update(dict.fromkeys(("ssl", "_ssl", "_hashlib")))
import concurrent.futures.thread, encodings.idna, encodings.latin_1
runpy.run_path(sys.argv[1])
print(json.dumps([m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]))
"""


@dataclass(frozen=True)
class Layer:
    """A layer: its compressed bytes, and the digest of what they hold."""

    blob: bytes
    diff_id: str


@dataclass(frozen=True)
class LocalImage:
    """An image made here: layers from the bottom up, and how a container of it is started."""

    layers: tuple[Layer, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    architecture: str = ARCHITECTURE


class _Tree:
    """A file tree on its way into a layer; the same files always give the same bytes."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(self, path: str, content: bytes = b"", *, mode: int = 0o644, mtime: int = 0, link: str = "") -> None:
        """Add a file, a symbolic link (`link` says to what) or, when the path ends in a slash, a folder."""
        name = path.strip("/")
        parent = name.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.add(parent + "/", mode=0o755)
        info = tarfile.TarInfo(name)
        info.mode, info.mtime, info.size = mode, mtime, len(content)
        if path.endswith("/"):
            info.type = tarfile.DIRTYPE
        elif link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        self._entries[name] = info, content

    def copy(self, source: Path, path: str = "") -> None:
        """Add a file of this machine, at the same place unless `path` names another."""
        stat = source.stat()
        self.add(path or str(source), source.read_bytes(), mode=stat.st_mode & 0o755, mtime=int(stat.st_mtime))

    def layer(self) -> Layer:
        """Return the tree as a layer."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for _, (info, content) in sorted(self._entries.items()):
                archive.addfile(info, io.BytesIO(content))
        content = plain.getvalue()
        return Layer(gzip.compress(content, compresslevel=1, mtime=0), digest_of(content))


@functools.cache
def busybox() -> LocalImage:
    """Return an image of busybox alone; it sleeps until it is told to end."""
    program = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if Path(path).exists()), None)
    if program is None:
        raise TestbedError("busybox is not installed (package busybox-static)")
    if shutil.which("ldd") and "=>" in run("ldd", program, check=False):
        raise TestbedError("busybox here needs shared libraries; install the package busybox-static")
    tree = _Tree()
    tree.copy(Path(program), "bin/busybox")
    for applet in run(program, "--list").split():
        if applet != "busybox":
            tree.add(f"bin/{applet}", link="busybox")
    for folder in ("etc/", "proc/", "sys/", "dev/", "root/", "usr/", "var/"):
        tree.add(folder, mode=0o755)
    tree.add("tmp/", mode=0o1777)
    tree.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    tree.add("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    sleep = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done"
    return LocalImage((tree.layer(),), ("/bin/sh", "-c", sleep), {"PATH": "/bin"})


@functools.cache
def shop(version: str = "1") -> LocalImage:
    """Return the demo application (examples/shop) on this machine's own Python; versions share their layers."""
    tree = _Tree()
    tree.copy(_SHOP, "app/app.py")
    environment = {"PATH": "/bin", "NAME": "shop", "VERSION": version, "PORT": "8080"}
    layers = (*busybox().layers, _python(_SHOP), tree.layer())
    return LocalImage(layers, (INTERPRETER, "-I", "-S", "/app/app.py"), environment, ("8080/tcp",))


@functools.cache
def registry() -> LocalImage:
    """Return an image of the CNCF distribution registry that is installed here; its variables configure it."""
    program = shutil.which("docker-registry")
    if program is None:
        raise TestbedError("docker-registry is not installed (package docker-registry)")
    tree = _Tree()
    for path in (program, *_libraries(program)):
        tree.copy(Path(path))
    config = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}}}
    tree.add("etc/docker/registry/config.yml", json.dumps(config).encode())
    return LocalImage((*busybox().layers, tree.layer()), (program, "serve", "/etc/docker/registry/config.yml"))


def push(registry: str, name: str, image: LocalImage, *, username: str = "", password: str = "") -> str:
    """Push an image as `registry/name` (with its tag) and return that reference. Raises TestbedError."""
    repository, _, tag = name.partition(":")
    client = _Client(f"http://{registry}/v2/{repository}", username, password)
    config = json.dumps(_config(image), sort_keys=True).encode()
    blobs = [config, *(layer.blob for layer in image.layers)]
    for blob in blobs:
        client.push_blob(blob)
    kinds = ["application/vnd.docker.container.image.v1+json"]
    kinds += ["application/vnd.docker.image.rootfs.diff.tar.gzip"] * len(image.layers)
    parts = [
        {"mediaType": kind, "size": len(blob), "digest": digest_of(blob)}
        for kind, blob in zip(kinds, blobs, strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0], "layers": parts[1:]}
    client.send("PUT", f"/manifests/{tag or 'latest'}", json.dumps(manifest).encode(), _MANIFEST)
    return f"{registry}/{repository}:{tag or 'latest'}"


def push_parts(
    registry: str,
    repository: str,
    blobs: Sequence[bytes],
    manifests: Sequence[tuple[str, bytes, str]],
    *,
    username: str = "",
    password: str = "",
) -> None:
    """Push blobs, then manifests byte for byte: (tag or digest, body, media type) each. Raises TestbedError."""
    client = _Client(f"http://{registry}/v2/{repository}", username, password)
    for blob in blobs:
        client.push_blob(blob)
    for name, body, kind in manifests:
        client.send("PUT", f"/manifests/{name}", body, kind)


def archive(name: str, image: LocalImage) -> bytes:
    """Return the image as `docker save` writes it: a tar file, not compressed."""
    config = json.dumps(_config(image), sort_keys=True).encode()
    files = {f"{digest_of(config).partition(':')[2]}.json": config}
    files |= {f"{number}/layer.tar": gzip.decompress(layer.blob) for number, layer in enumerate(image.layers)}
    layers = [path for path in files if path.endswith("layer.tar")]
    files["manifest.json"] = json.dumps([{"Config": next(iter(files)), "RepoTags": [name], "Layers": layers}]).encode()
    return tar_of(files)


def image_id(image: LocalImage) -> str:
    """Return the id that engines give it."""
    return digest_of(json.dumps(_config(image), sort_keys=True).encode())


class _Client:
    """The little of a registry's API that a push needs."""

    def __init__(self, base: str, username: str, password: str) -> None:
        self._base = base
        self._headers = {}
        if username:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    def push_blob(self, blob: bytes) -> None:
        digest = digest_of(blob)
        if self.send("HEAD", f"/blobs/{digest}", missing_ok=True) is not None:
            return
        place = self.send("POST", "/blobs/uploads/", b"") or ""
        mark = "&" if "?" in place else "?"
        self.send("PUT", f"{place}{mark}digest={digest}", blob, "application/octet-stream")

    def send(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", *, missing_ok: bool = False
    ) -> str | None:
        """Send a request and return the Location it answers; None when it is missing and that is accepted."""
        url = path if path.startswith("http") else self._base + path
        headers = {**self._headers, **({"Content-Type": kind} if kind else {})}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers, method=method), timeout=60
            ) as answer:
                return str(answer.headers.get("Location", ""))
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            raise TestbedError(f"{method} {url}: {error.code} {error.read(500).decode(errors='replace')}") from None
        except OSError as error:
            raise TestbedError(f"{method} {url}: {error}") from None


def _config(image: LocalImage) -> dict[str, object]:
    return {
        "architecture": image.architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Cmd": list(image.command),
            "Env": [f"{name}={value}" for name, value in image.environment.items()],
            "ExposedPorts": {port: {} for port in image.exposed},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
        "history": [{"created": "1970-01-01T00:00:00Z"} for _ in image.layers],
    }


@functools.cache
def _python(app: Path) -> Layer:
    """Return a layer with the interpreter, the libraries it is linked to, and the modules `app` imports.

    Everything keeps its place, so that the interpreter finds it; timestamps too, so that compiled modules hold.
    """
    interpreter = INTERPRETER
    listed = subprocess.run(
        [interpreter, "-I", "-S", "-X", "frozen_modules=off", "-c", _LIST_MODULES, str(app)],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = [Path(name) for name in json.loads(listed.stdout)]
    # A package may import more of itself later on.
    packages = {module.parent for module in modules if module.name == "__init__.py"}
    modules += [module for package in packages for module in package.glob("*.py")]
    tree = _Tree()
    for module in dict.fromkeys(modules):
        tree.copy(module)
        compiled = module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
        if module.suffix == ".py" and compiled.exists():
            tree.copy(compiled)
    tree.copy(Path(interpreter))
    extensions = [str(module) for module in modules if module.suffix == ".so"]
    for library in _libraries(interpreter, *extensions):
        tree.copy(Path(library))
    return tree.layer()


def _libraries(*programs: str) -> set[str]:
    """Return the libraries that programs are linked to."""
    return set(re.findall(r"(/\S+) \(0x", run("ldd", *programs)))
