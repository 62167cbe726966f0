"""One module for each framework, named after it: `install(app, gate)`, and that framework's own idiom."""
