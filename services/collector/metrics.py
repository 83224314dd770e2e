"""What the collector counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

requests = Counter("ratchet_collector_requests_total", "Requests, by protocol and HTTP status.", ["protocol", "status"])
events = Counter("ratchet_collector_events_total", "Events of answered requests, by protocol and outcome "
                 "(accepted or rejected).", ["protocol", "outcome"])
rejected = Counter("ratchet_collector_rejected_total", "Rejected events, by reason code.", ["code"])
request_s = Histogram("ratchet_collector_request_seconds", "From the first byte to the answer, in seconds.",
                      ["protocol"], buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5))
in_flight = Gauge("ratchet_collector_requests_in_flight", "Requests under way.", multiprocess_mode="livesum")
