"""Reads the SM clock and the power of a GPU from its driver, through torch.cuda (needs the package nvidia-ml-py)."""

from typing import NamedTuple

import torch


class Reading(NamedTuple):
    """The SM clock in MHz, and the power in watts. The driver may take up to a second for a reading of either."""

    clock_mhz: float
    watts: float


def read(device: torch.device) -> Reading | None:
    """Return the SM clock and the power now, or None if the driver does not tell them."""
    try:
        return Reading(torch.cuda.clock_rate(device), torch.cuda.power_draw(device) / 1e3)
    except Exception:  # the package is missing, or the driver refuses: a time counts without them
        return None
