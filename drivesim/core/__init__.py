"""Facts of the world that every part shares: clips, boxes, cameras, scenes, seeds, files, video."""
