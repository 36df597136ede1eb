"""A real image registry on a fabric, holding nothing until something is pushed."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from testbed import processes
from testbed.fabric import Fabric

USERNAME = "fallow"
PASSWORD = "testbed-password"
# bcrypt of PASSWORD: the registry knows no other hash, and making one needs a program that may not be installed.
_PASSWORD_FILE = f"{USERNAME}:$2y$05$yRD8B2Y3R0aL8zQtdj/XzeCvdpmeC26fTFrbviNB76vPMJZtveBBS\n"


class Registry:
    """A registry at `address` (host and port), which the nodes must be told is spoken to without TLS."""

    def __init__(self, fabric: Fabric, *, port: int = 5000, password: bool = False) -> None:
        """Start it; with `password`, USERNAME and PASSWORD are asked of everybody. Raises TestbedError."""
        self._begin(f"{fabric.host_address}:{port}", fabric.folder / f"registry-{port}", password)
        fabric.remember(self._process)
        processes.wait_until(self._answers, 20, f"registry on {self.address}")

    @classmethod
    def on_loopback(cls, folder: Path, *, port: int, password: bool = False) -> "Registry":
        """Start one that only this machine reaches, and that nobody but the caller ends. Raises TestbedError."""
        made = cls.__new__(cls)
        made._begin(f"127.0.0.1:{port}", folder, password)
        try:
            processes.wait_until(made._answers, 20, f"registry on {made.address}")
        except processes.TestbedError:
            made.close()
            raise
        return made

    def _begin(self, address: str, folder: Path, password: bool) -> None:
        self.address = address
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.password = password
        config = self.folder / "config.yml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        self._process: subprocess.Popen[bytes] = processes.start(
            ["docker-registry", "serve", str(config)], self.folder / "log", {"OTEL_TRACES_EXPORTER": "none"}
        )

    def close(self) -> None:
        """Stop it; what it holds goes with the fabric."""
        processes.stop(self._process)

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.address},
        }
        if self.password:
            passwords = self.folder / "htpasswd"
            passwords.write_text(_PASSWORD_FILE)
            config["auth"] = {"htpasswd": {"realm": "testbed", "path": str(passwords)}}
        return config

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
