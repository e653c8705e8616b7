"""The demo: one real port, driven through the server as an agent would drive it."""
