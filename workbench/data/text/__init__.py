"""Text retrieval: documents, queries and relevance; readers of BEIR folders and of two dictionaries."""
