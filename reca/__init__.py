"""RecA (Reconstruction Alignment, arXiv 2509.07295): models, data, training and evaluation."""
