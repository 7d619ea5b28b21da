"""Files for the data loaders of released training codes, and neutral formats; see `labelgen.export.targets`."""
