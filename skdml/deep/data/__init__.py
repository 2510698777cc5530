"""Training data: reading X and y, datasets, augmentation and batch samplers."""
