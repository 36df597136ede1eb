"""Seeds, images, folders and control groups of virtual machines."""

import io
import json
import os
import subprocess
from pathlib import Path

import pycdlib
import pytest

from fallow.drivers.cgroups import Groups
from fallow.drivers.engine.configuration import cgroup_parent
from fallow.drivers.machine import images
from fallow.drivers.machine.contract import MachineError, Seed
from fallow.drivers.machine.groups import MachineGroups
from fallow.drivers.machine.images import Image, Images
from fallow.drivers.machine.imaging.initrd import archive
from fallow.drivers.machine.seed import SIZE_BYTES, problem_told, seed_image

SEED = Seed(name="vm1", url="https://c:7443", token="fallow-join.A.SECRET.B")


def files(image: bytes) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    found = {}
    for name in ("meta-data", "user-data", "name", "url", "token"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, rr_path=f"/{name}")
        found[name] = out.getvalue()
    iso.close()
    return found


def test_a_seed_says_how_to_join():
    found = files(seed_image("a1", SEED))
    assert (found["name"], found["url"], found["token"]) == (b"vm1", b"https://c:7443", SEED.token.encode())
    assert json.loads(found["meta-data"]) == {"instance-id": "fallow-a1", "local-hostname": "vm1"}
    assert found["user-data"].startswith(b"#cloud-config\n")
    assert SEED.token.encode() not in found["user-data"]  # cloud-init keeps a copy of that


def test_cloud_init_writes_what_our_own_images_have_and_what_brings_the_rest():
    user_data = json.loads(files(seed_image("a1", SEED))["user-data"].removeprefix(b"#cloud-config\n"))
    written = {each["path"]: each for each in user_data["write_files"]}
    unit = "/etc/systemd/system/fallow-first-boot.service"
    programs = {"/usr/local/sbin/fallow-first-boot", "/usr/local/sbin/fallow-prepare"}
    assert written.keys() == {unit, f"{unit}.d/prepare.conf"} | programs
    assert {path for path, each in written.items() if each["permissions"] == "0755"} == programs
    for each in (written[path]["content"] for path in programs):
        assert subprocess.run(["sh", "-n"], input=each, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("console", "told"),
    [
        ("", ""),
        ("[ 5.0] systemd: fallow: problem: no Python\r\nlogin: ", "no Python"),
        ("fallow: problem: no Python\nfallow: joining\n", ""),
        ("fallow: problem: one\nfallow: problem: two\nanything\n", "two"),
        ("fallow: problem: no Podman\nfallow: installing Podman\n", "no Podman"),
        ("fallow: problem: \x1b[31mred\x00\n", "[31mred"),
        ("fallow: problem: " + "x" * 1000, "x" * 300),
    ],
)
def test_what_a_machine_says_on_its_console_is_its_problem(console: str, told: str):
    assert problem_told(console) == told


def test_a_seed_without_a_token_is_the_same_machine_with_no_secret():
    cleared = seed_image("a1", Seed(name="vm1"))
    assert b"SECRET" not in cleared
    assert files(cleared)["meta-data"] == files(seed_image("a1", SEED))["meta-data"]
    assert files(cleared)["user-data"] == files(seed_image("a1", SEED))["user-data"]
    assert len(cleared) == len(seed_image("a1", SEED)) == SIZE_BYTES


def made(store: Images, name: str, content: str) -> Path:
    draft = store.draft()
    (draft / images.DISK).write_text(content)
    return store.keep(draft, Image(name=name, base="test", created_at=1.0))


def test_an_image_takes_the_place_of_the_one_before(tmp_path: Path):
    store = Images(tmp_path / "images")
    first = made(store, "default", "one")
    linked = images.link(first / images.DISK, tmp_path / "base")
    made(store, "default", "two")
    assert (first / images.DISK).read_text() == "two"
    assert linked.read_text() == "one"  # a machine keeps what it was made from
    assert [(image.name, size > 0) for image, size in store.list()] == [("default", True)]
    assert [path.name for path in store.folder.iterdir()] == ["default"]


def test_an_image_is_found_by_name_by_folder_and_by_disk(tmp_path: Path):
    store = Images(tmp_path)
    folder = made(store, "default", "one")
    assert store.find("default")[0] == folder
    assert store.find(str(folder))[0] == folder
    disk = tmp_path / "alone.qcow2"
    disk.touch()
    assert store.find(str(disk))[0] == disk


@pytest.mark.parametrize("wish", ["nope", "/nope", "../etc", "a/b", "", "a b"])
def test_an_image_that_is_none_is_refused(tmp_path: Path, wish: str):
    with pytest.raises(MachineError):
        Images(tmp_path).find(wish)


def test_an_archive_is_one_that_the_kernel_unpacks(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("bin/a")
    whole = b"".join(archive(tmp_path))
    assert len(whole) % 4 == 0
    assert whole.count(b"070701") == 4
    assert whole.endswith(b"TRAILER!!!\0\0\0\0")
    assert b"12345\0\0\0" in whole
    assert b"link\0" in whole


def version1(root: Path) -> MachineGroups:
    for tree in ("cpu", "cpuacct", "memory", "cpuset"):
        (root / tree).mkdir(parents=True)
    (root / "cpuset/cpuset.cpus").write_text("0-3\n")
    return MachineGroups("fallow.slice", Groups(root=root))


def test_groups_of_version_1(tmp_path: Path):
    groups = version1(tmp_path)
    groups.make("a.slice")
    cpu = tmp_path / "cpu/fallow.slice"
    assert (cpu / "a.slice").is_dir()
    assert groups.quota("a.slice") is None
    (cpu / "a.slice/cpu.cfs_period_us").write_text("100000")
    (cpu / "a.slice/cpu.cfs_quota_us").write_text("50000")
    assert groups.quota("a.slice") == 0.5
    assert groups.room() == float("inf")
    (cpu / "cpu.cfs_period_us").write_text("100000")
    (cpu / "cpu.cfs_quota_us").write_text("20000")
    assert groups.room() == 0.2
    (tmp_path / "cpuacct/fallow.slice/a.slice/cpuacct.usage").write_text("2000000000")
    (cpu / "a.slice/cpu.stat").write_text("nr_periods 5\nthrottled_time 4000000000\n")
    use = groups.use("a.slice", 2.0)
    assert use is not None
    assert (use.cpu_seconds, use.throttled_seconds) == (2.0, 2.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="attributes that are trusted need root")
def test_a_quota_that_waits_for_room_is_what_a_group_has(tmp_path: Path):
    groups = version1(tmp_path)
    groups.make("a.slice")
    folder = tmp_path / "cpu/fallow.slice/a.slice"
    (folder / "cpu.cfs_period_us").write_text("100000")
    (folder / "cpu.cfs_quota_us").write_text("20000")
    try:
        groups.keep_quota("a.slice", 1.5)
    except OSError:
        pytest.skip("this file system keeps no such attributes")
    assert groups.quota("a.slice") == 1.5
    groups.forget_quota("a.slice")
    assert groups.quota("a.slice") == 0.2


def test_groups_of_version_2(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    groups = MachineGroups("fallow.slice", Groups(root=tmp_path))
    groups.make("a.slice/agent")
    folder = tmp_path / "fallow.slice/a.slice"
    assert (folder / "agent").is_dir()
    (folder / "cpu.max").write_text("150000 100000\n")
    (folder / "cpu.weight").write_text("1\n")
    (folder / "cpu.stat").write_text("usage_usec 3000000\nthrottled_usec 500000\n")
    assert (groups.quota("a.slice"), groups.weight("a.slice"), groups.room()) == (1.5, 1, float("inf"))
    use = groups.use("a.slice", 1.5)
    assert use is not None
    assert use.cpu_seconds == 3.0
    (folder / "cpu.max").write_text("max 100000\n")
    assert groups.quota("a.slice") == 0.0
    groups.remove("nope")


@pytest.mark.parametrize(
    ("group", "driver", "told"),
    [
        ("", "systemd", ""),
        ("/fallow.slice/fallow-a.slice", "systemd", "fallow-a.slice"),
        ("/fallow.slice/fallow-a.slice", "cgroupfs", "/fallow.slice/fallow-a.slice/containers"),
    ],
)
def test_how_an_engine_is_told_of_a_control_group(group: str, driver: str, told: str):
    assert cgroup_parent(group, driver) == told
