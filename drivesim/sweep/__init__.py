"""Sweeps: rollouts and scores over many settings in one command, and the claims of the paper as one of them."""
