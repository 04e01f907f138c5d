"""Engines of others that hold candidates: FAISS, Milvus, tantivy. May import what the searchers may."""
