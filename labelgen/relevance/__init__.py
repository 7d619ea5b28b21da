"""Similarity to relevance: schemes and transforms, pure functions of blocks."""
