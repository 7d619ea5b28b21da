"""The command line: a translation. Options in, one library call, a table (or JSON) out."""
