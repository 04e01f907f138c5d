"""The plain recommenders that an honest table needs. May import contracts, data, evaluation, search."""
