"""Run the demo; see `make demo`."""

import argparse
import os
import signal
import sys
from types import FrameType

from demo.screen import Screen
from demo.story import HOSTS, Story
from testbed import cgroups, parts, vms
from testbed.fabric import Fabric
from testbed.processes import TestbedError

NEEDED = ("namespaces", "registry", "haproxy", "busybox")
LATE = ("power cut", "lose a cluster")  # may cost what was in flight on what died; all else must cost nothing


def main() -> int:
    """Play the story, show the figures, stay up for a person; return 1 when a figure is wrong."""
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    with_vm = _options().with_vm
    missing = [reason for part in NEEDED if (reason := parts.missing(part))]
    missing += [reason for reason in (cgroups.missing(), vms.missing() if with_vm else None) if reason]
    if missing:
        screen.console.print("The demo cannot run here:\n  " + "\n  ".join(missing))
        return 1
    for folder in Fabric.sweep():
        screen.console.print(f"removed what an earlier run left behind in {folder}")
    story: Story | None = None
    with Fabric() as fabric:
        try:
            story = Story(fabric, screen, with_vm)
            story.play()
            right = report(story)
            if sys.stdout.isatty() and not os.environ.get("CI"):
                stay(story)
        except KeyboardInterrupt:
            screen.console.print("\nstopping ...")
            return 130
        except TestbedError as error:
            screen.console.print(f"the demo failed: {error}", markup=False)
            return 1
        finally:
            if story is not None:
                story.close()
    screen.console.print("everything the demo made is removed")
    return 0 if right else 1


def report(story: Story) -> bool:
    """Show the table and say whether every figure is as it must be."""
    load, figures = story.load, story.figures
    dropped = {phase: load.failed(phase) for phase in story.phases if phase not in LATE}
    late = {"power cut": load.failed("power cut") - story.in_flight_failures()}
    if not story.with_vm:
        late["lose a cluster"] = load.failed("lose a cluster") - story.clusters.in_flight_failures(
            load, "lose a cluster"
        )
    right = not any(dropped.values()) and not any(late.values())
    joins = figures.join_to_ready
    rows = [
        ("join to ready", f"{min(joins):.1f} to {max(joins):.1f} s", ""),
        ("deploy to serving", f"{figures.deploy_to_serving:.1f} s", ""),
        ("new version, deploy to done", f"{figures.updated_after:.1f} s", ""),
        ("its image pulled ahead", f"on {figures.pulled_ahead} nodes", ""),
        ("bad version, deploy to rolled back", f"{figures.rolled_back_after:.1f} s", ""),
        ("requests sent", f"{load.sent.total()}", ""),
    ]
    rows += [
        (f"failed, {phase}", f"{count} of {load.sent[phase]}", "ok" if count == 0 else "WRONG: must be 0")
        for phase, count in dropped.items()
    ]
    rows += [
        (
            f"failed, {phase}",
            f"{load.failed(phase)} of {load.sent[phase]}",
            "ok: in flight on what died" if count == 0 else f"WRONG: {count} after it was suspected",
        )
        for phase, count in late.items()
    ]
    rows += [
        ("power cut to suspected", f"{figures.suspected_at - figures.cut_at:.1f} s", ""),
        ("declared dead to its name gone", f"{story.figures.name_gone_after:.1f} s", ""),
        ("power cut to full strength again", f"{figures.full_strength_again:.1f} s", ""),
    ]
    rows += _lending_rows(story) + ([] if story.with_vm else _cluster_rows(story))
    story.screen.table(rows)
    for failure in load.failures[:10]:
        story.screen.say(f"failed in {failure.phase!r}: {failure.why}")
    return right


def _lending_rows(story: Story) -> list[tuple[str, str, str]]:
    found, what = story.hosting.figures, "virtual machine" if story.with_vm else "control group"
    return [
        (f"server joins to its {what} a node", f"{found.joined_after:.1f} s", ""),
        ("deploy to serving on what is lent", f"{found.serving_after:.1f} s", ""),
        ("primary spikes to lent limit down", f"{found.limited_after:.2f} s", ""),
        ("primary spikes to replicas elsewhere", f"{found.moved_after:.1f} s", ""),
    ]


def _cluster_rows(story: Story) -> list[tuple[str, str, str]]:
    found = story.clusters.figures
    return [
        ("all moved to two other clusters", f"{found.moved_after:.1f} s", ""),
        ("a cluster drained", f"{found.drained_after:.1f} s", ""),
        ("cluster lost to full strength again", f"{found.full_strength_again:.1f} s", ""),
    ]


def stay(story: Story) -> None:
    """Keep everything up until Ctrl-C, and say what one might try."""
    config = story.cluster.environment["XDG_CONFIG_HOME"]
    story.screen.console.print("\nIt stays up until Ctrl-C. Try:", markup=False)
    for host in HOSTS:
        story.screen.say(f"curl http://{host}:{story.http_port}/")
    host, _, port = story.names.place.rpartition(":")
    story.screen.say(f"dig @{host} -p {port} {story.names.full('web.shop.svc')} SRV")
    story.screen.say(f"export XDG_CONFIG_HOME={config}")
    for command in (
        "node list",
        "node show n1",
        "cluster list",
        "deployment division shop/web",
        "deployment list",
        "dns status",
        "image list",
        "image job list",
        "explain shop/web",
        "events -f",
        "logs shop/web -f",
    ):
        story.screen.say(f".venv/bin/fallow {command}")
    signal.pause()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Play what Fallow does, on real parts.")
    parser.add_argument(
        "--with-vm",
        action="store_true",
        help="a server lends a virtual machine (emulated where there is no KVM); this takes the place of the clusters",
    )
    return parser.parse_args()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
