"""The processor: joins predictions with feedback and writes Postgres so that every effect happens exactly once."""
