"""What one version has answered, as the Open Inference Protocol's statistics want it."""

from dataclasses import dataclass, field


@dataclass
class Sum:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count one more."""
        self.count += count
        self.ns += ns

    def shown(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass
class Stats:
    """Counters of one version; touched by the event loop only."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Sum = field(default_factory=Sum)
    fail: Sum = field(default_factory=Sum)
    queue: Sum = field(default_factory=Sum)
    compute_infer: Sum = field(default_factory=Sum)

    def shown(self, name: str, version: str) -> dict[str, object]:
        """As an element of ``model_stats``."""
        zero = Sum().shown()
        return {
            "name": name, "version": version, "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count, "execution_count": self.execution_count,
            "inference_stats": {
                "success": self.success.shown(), "fail": self.fail.shown(), "queue": self.queue.shown(),
                "compute_input": zero, "compute_infer": self.compute_infer.shown(), "compute_output": zero,
                "cache_hit": zero, "cache_miss": zero},
            "response_stats": {}, "batch_stats": [], "memory_usage": [],
        }
