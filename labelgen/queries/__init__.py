"""Queries that are not in a store, answered with its teachers: `labelgen.query` and `Store.query`."""
