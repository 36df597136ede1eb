"""Whether machines can run on the processor itself.

`/dev/kvm` that can be opened proves nothing: inside some virtual machines its guests never get a timer interrupt. So a
guest of one sector counts four ticks of its clock, which takes a quarter of a second where it works.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Literal

from fallow.drivers.machine import commands
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.domain import Accelerator

Wish = Literal["auto", "kvm", "tcg"]
QEMU = "qemu-system-x86_64"
TRIAL_SECONDS = 3.0
_EXIT_PORT, _EXIT_VALUE = 0xF4, 0x10
# sti; es = 0x40; bx = [es:6c]; until [es:6c] - bx >= 4: hlt; out 0xf4, 0x10; hlt
_SECTOR = bytes.fromhex("fb b84000 8ec0 268b1e6c00 f4 26a16c00 29d8 83f804 72f4 baf400 b010 ee f4")


async def accelerator(wish: Wish, device: Path = Path("/dev/kvm")) -> Accelerator:
    """Return how machines run here: as wished, or by trying. Raises MachineError when QEMU is not installed."""
    if wish != "auto":
        return wish
    there = await asyncio.to_thread(device.exists)
    return "kvm" if there and await runs("kvm") else "tcg"


async def runs(kind: Accelerator) -> bool:
    """Say whether a guest's clock ticks. Raises MachineError when QEMU is not installed."""
    with tempfile.NamedTemporaryFile(prefix="fallow-trial-") as file:
        file.write(_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(65536 - 512))
        file.flush()
        words = (QEMU, "-accel", kind, "-M", "pc", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot")
        # The processor that machines get: some hosts run guests, but not with all of theirs.
        cpu = ("-cpu", "host") if kind == "kvm" else ()
        disk = ("-drive", f"file={file.name},format=raw,if=ide")
        ending = ("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=4")
        try:
            await commands.run(*words, *cpu, *disk, *ending, seconds=TRIAL_SECONDS)
        except MachineError as error:
            if "not installed" in str(error):
                raise
            return isinstance(error, commands.Ended) and error.code == _EXIT_VALUE * 2 + 1
        return False
