"""Model families: the networks and the conditioning that belong together, as one object and one folder."""
