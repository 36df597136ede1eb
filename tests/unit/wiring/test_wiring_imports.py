"""What an agent loads when it starts: nothing of a control plane, and no name server unless it serves names."""

import subprocess
import sys

PROGRAM = """
import asyncio, sys
from fallow.wiring import _until_stopped

async def work(stop):
    import fallow.agent.node
    return 0

asyncio.run(_until_stopped(work))
heavy = ("dns", "fallow.api", "fallow.control", "fallow.drivers.dns.server", "litestar", "numpy", "uvicorn")
print(*sorted(name for name in sys.modules if name.startswith(tuple(f"{each}." for each in heavy)) or name in heavy))
"""


def test_the_agent_of_a_node_loads_only_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split()) == ("", [])
