"""What the end-to-end tests stand on: a server of their own, clients, a view of the host."""
