"""The plain recommenders that an honest table needs. May import contracts, runtime, data, evaluation, search."""
