"""SparCode: tokenizers, codes and an interaction of both. May import contracts, runtime, kernels."""
