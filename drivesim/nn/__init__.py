"""Network layers that several models share."""
