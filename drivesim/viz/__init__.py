"""Pictures for people: boxes over frames, contact sheets, curves."""
