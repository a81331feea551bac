"""`doctor`: what is installed, and what does not work with it."""

import platform
import shutil
import sqlite3
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.text import Text

from topograph.cli.output import show, table

PACKAGES = (
    "topograph", "torch", "networkx", "numpy", "pydantic", "POT", "safetensors", "scikit-learn",
    "typer", "rich", "jinja2",
)  # fmt: skip


def doctor() -> int:
    """Print versions and the state of compilers and devices; return 0 if all is well, else 1."""
    found = [("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    missing = 0
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed: pip install topograph"))
            missing += 1
    found.append(("SQLite", sqlite3.sqlite_version))
    compiler = shutil.which("g++") or shutil.which("clang++")
    found.append(("C++ compiler", compiler or "none: recompile(backend='inductor') runs eager"))
    devices = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(devices))
    found.append(("GPU", names or "none: everything runs on the CPU"))
    found.append(("threads", str(torch.get_num_threads())))
    listing = table("topograph doctor", "what", "found")
    listing.columns[1].justify = "left"
    for row in found:
        listing.add_row(*map(Text, row))
    show(listing)
    return 1 if missing else 0
