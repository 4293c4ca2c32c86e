"""What a model is told: boxes, labels and given frames, turned into tokens and channels."""
