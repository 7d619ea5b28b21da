"""What the data loaders of released training codes read, and neutral formats; see `labelgen.export.targets`."""
