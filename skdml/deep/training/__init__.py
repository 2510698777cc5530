"""How a network is trained, stopped, checked and saved."""
