"""What training reads: points, labels and batches."""
