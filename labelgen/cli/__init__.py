"""Command-line interface: parse options, call one function, print a table or JSON."""
