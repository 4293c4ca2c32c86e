"""Scores of videos, whoever made them: frames in, numbers with their protocol out; knows no models."""
