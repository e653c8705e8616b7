"""Jobs that need the server's own packages; they run in the server's interpreter, beside the engine's, not in it."""
