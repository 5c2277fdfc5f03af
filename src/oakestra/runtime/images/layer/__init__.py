"""The content of layers: byte streams, tar, and what overlayfs makes of it."""
