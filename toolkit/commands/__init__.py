"""The commands of `packmule`, a module each: their flags, typed by tyro, and what they print."""
