"""The store: one folder that any zarr v3 or parquet reader opens, and that training reads at memory speed."""
