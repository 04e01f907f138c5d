"""What a dot product can and cannot express, and what a mixture of logits adds. May import similarities, contracts, runtime."""
