"""A run as one HTML file, and as single pictures. Needs matplotlib and jinja2; imported only when asked for."""
