"""Networks, their initial weights, and the map that `transform` applies."""
