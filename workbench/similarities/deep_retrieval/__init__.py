"""Deep Retrieval: items on learned paths and the model of a query's paths. May import contracts, runtime, kernels."""
