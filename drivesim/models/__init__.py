"""The networks of the simulator and how they are stored."""
