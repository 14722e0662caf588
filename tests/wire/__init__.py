"""The wire: what members may say to each other, and that strangers get nothing."""
