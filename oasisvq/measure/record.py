"""Records of measurements: figures as JSON beside the circumstances that they were measured under."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oasisvq.files import write_atomically
from oasisvq.training.reproducibility import MEASURED, commit


def circumstances() -> dict[str, Any]:
    """Date, processor, threads, commit and versions of this process.

    The date is the day in UTC: today, or that of SOURCE_DATE_EPOCH, so that a repeated run can give the same bytes.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(float(fixed), UTC) if fixed else datetime.now(UTC)
    return {
        "date": now.date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def write_record(path: Path, figures: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write figures as JSON, `circumstances` under MEASURED."""
    text = json.dumps({MEASURED: circumstances(), **figures}, indent=indent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (text + "\n").encode())


def _processor() -> str:
    """The name that the processor gives itself, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
