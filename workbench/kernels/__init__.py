"""The hot arithmetic behind one function each. May import contracts, runtime, files."""
