"""The collector: the only way in. Checks and pseudonymises events, and answers once Kafka has them."""
