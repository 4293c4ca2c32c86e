"""drivesim's shipped configs; installed as drivesim.conf."""
