"""What the user chose: the configuration, the catalogue of caches resolved for one user, and our own paths."""
