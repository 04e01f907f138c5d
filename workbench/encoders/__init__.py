"""From a history to a query embedding, one file an encoder. May import contracts, runtime."""
