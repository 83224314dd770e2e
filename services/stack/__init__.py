"""The embedded stack: real Kafka, Postgres and Redis from packages alone, and what keeps them and the services up."""
