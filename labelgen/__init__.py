"""labelgen: offline soft labels for image-text retrieval."""
