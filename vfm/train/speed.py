"""How fast a run is, in clips and in FLOPs, and what the device could do at most."""

from typing import Any

import jax
from jax.sharding import Mesh

from vfm.train import flops


class Speed:
    """Turns seconds a step into clips/s and MFU.

    Args:
      work: model FLOPs of one step on the whole mesh.
      batch_size: clips of one step.
      mesh: whose devices do it.
    """

    def __init__(self, work: float, batch_size: int, mesh: Mesh):
        self.work, self.batch_size, self.devices = work, batch_size, mesh.devices.size
        self.peak, self.source = flops.peak(mesh.local_devices[0])

    def __str__(self) -> str:
        text = f"{self.work / 1e9:,.2f} GFLOP a step"
        if self.peak is None:
            return f"{text}; no MFU: {self.source}"
        return f"{text}; at most {self.peak / 1e12:.2f} TFLOP/s a device ({self.source})"

    def of(self, step_time: float) -> dict[str, float]:
        """clips_per_s, mfu where the peak is known, peak_memory_gib where the backend tells."""
        numbers = {"clips_per_s": self.batch_size / step_time}
        if self.peak is not None:
            numbers["mfu"] = self.work / step_time / (self.peak * self.devices)
        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            numbers["peak_memory_gib"] = stats["peak_bytes_in_use"] / 2**30
        return numbers

    def known(self) -> dict[str, Any]:
        """What environment.json keeps of it."""
        return dict(flops_per_step=self.work, peak_flops_per_device=self.peak, peak_source=self.source)
