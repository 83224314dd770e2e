"""The trainer's metrics, each declared once."""

from prometheus_client import Counter, Gauge, Histogram

_LOOP = ("loop",)

learned = Counter("ratchet_trainer_examples_learned_total", "Changes that went into the head's sums.", _LOOP)
embedded = Counter("ratchet_trainer_examples_embedded_total",
                   "Examples embedded here, since serving used another encoder.", _LOOP)
skipped = Counter("ratchet_trainer_examples_skipped_total", "Examples with neither text nor embedding.", _LOOP)
verdicts = Counter("ratchet_trainer_gate_verdicts_total", "Gate decisions.", ("loop", "rule", "verdict"))
promoted = Counter("ratchet_trainer_promotions_total", "Versions made champion.", _LOOP)
update_s = Histogram("ratchet_trainer_update_seconds", "From reading new examples to the promotion.", _LOOP,
                     buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10))
lag = Gauge("ratchet_trainer_lag_examples", "Examples announced but not read yet.", _LOOP)
prequential = Gauge("ratchet_trainer_prequential_accuracy_ratio", "Right answers among the newest thousand.", _LOOP)
generation = Gauge("ratchet_trainer_generation", "The encoder state in use; 0 is the base.", _LOOP)
fine_tunes = Counter("ratchet_trainer_fine_tunes_total", "Fine-tunes by how they ended.", ("loop", "end"))
last_loss = Gauge("ratchet_trainer_last_loss", "Mean loss per text at the last fine-tune's end.", _LOOP)
errors = Counter("ratchet_trainer_retries_total", "Rounds given up since Postgres or Redis was away.", _LOOP)
