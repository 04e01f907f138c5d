"""The best k of a corpus. May import contracts, runtime, kernels, similarities."""
