"""Inference's metrics, each declared once."""

from prometheus_client import Counter, Gauge, Histogram

requests = Counter("ratchet_inference_requests_total", "Requests answered.", ["loop", "protocol", "code"])
latency_s = Histogram(
    "ratchet_inference_latency_seconds", "From a predict request's arrival to its answer.", ["loop"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5))
predictions = Counter("ratchet_predictions_total", "Predictions answered.", ["loop"])
lost = Counter("ratchet_predictions_lost_total", "Predictions answered but lost to the log.", ["loop"])
log_bytes = Gauge("ratchet_predictions_log_bytes", "Bytes of predictions that Kafka has not acknowledged.")
batch_texts = Histogram("ratchet_inference_batch_texts", "Texts in one forward pass.",
                        buckets=(1, 2, 4, 8, 16, 24, 32, 64, 128))
batch_s = Histogram("ratchet_inference_batch_seconds", "Duration of one forward pass.",
                    buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5))
waiting_texts = Gauge("ratchet_inference_waiting_texts", "Texts that wait for a forward pass.")
swaps = Counter("ratchet_swaps_total", "Times that another version took over.", ["loop"])
refused = Counter("ratchet_versions_refused_total", "Versions that were damaged or did not fit.", ["loop"])
load_s = Histogram("ratchet_version_load_seconds", "From seeing a version's name to serving it.", ["loop"],
                   buckets=(0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10))
serving_version = Gauge("ratchet_serving_version", "Number of the version that serves; 0 before the first.", ["loop"])
serving_info = Gauge("ratchet_serving_version_info", "1 for the version that serves.", ["loop", "version"])
epoch = Gauge("ratchet_serving_epoch", "Epoch of the aliases that are served.", ["loop"])
registry_up = Gauge("ratchet_inference_registry_up", "1 while the registry can be followed.", ["loop"])
