"""What an attack, or a rush, does to streams that have nothing to do with it."""
