"""`doctor`: what is installed, and what does not work with it."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.table import Table

from topograph.cli.output import console

PACKAGES = ("topograph", "torch", "networkx", "pydantic", "POT", "safetensors", "numpy", "typer", "rich")


def doctor() -> int:
    """Print versions and the state of compilers and devices; return 0 if all is well, else 1."""
    table = Table(title="topograph doctor")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    missing = 0
    for name in PACKAGES:
        try:
            table.add_row(name, version(name))
        except PackageNotFoundError:
            table.add_row(name, "not installed: pip install topograph")
            missing += 1
    compiler = shutil.which("g++") or shutil.which("clang++")
    table.add_row("C++ compiler", compiler or "none: recompile(backend='inductor') runs eager")
    devices = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(devices))
    table.add_row("GPU", names or "none: everything runs on the CPU")
    table.add_row("threads", str(torch.get_num_threads()))
    console.print(table)
    return 1 if missing else 0
