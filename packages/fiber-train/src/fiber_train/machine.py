"""What a run, a model or a page was made with: the machine, and the versions of what is installed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("fiber-backbone", "fiber-heads", "fiber-data", "fiber-eval", "fiber-train", "torch", "transformers")
_CPU = Path("/proc/cpuinfo")  # of Linux


def describe_machine() -> str:
    """The processor's name, where the system tells it, its cores, and the system."""
    lines = _CPU.read_text(encoding="utf-8").splitlines() if _CPU.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = named[0] if named else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def installed_versions() -> str:
    """Of our packages, of torch and transformers, and of Python."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{packages}, Python {platform.python_version()}"
