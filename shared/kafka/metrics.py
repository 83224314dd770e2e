"""What the producer counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

frames = Counter("ratchet_producer_frames_total", "Kafka records sent, by topic and result (acknowledged or failed).",
                 ["topic", "result"])
items = Counter("ratchet_producer_items_total", "Items in those records, by topic and result.", ["topic", "result"])
ack_s = Histogram("ratchet_producer_ack_seconds", "From handing a frame to Kafka until its answer, in seconds.",
                  buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10))
bytes_in_flight = Gauge("ratchet_producer_bytes_in_flight", "Bytes accepted and not yet acknowledged.", ["client"],
                        multiprocess_mode="livesum")
replaced = Counter("ratchet_producer_replaced_total", "Times that a stuck Kafka producer was replaced by a new one.")
