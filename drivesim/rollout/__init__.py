"""Rollouts: from one start frame to many futures as videos, minutes long, in memory that does not grow."""
