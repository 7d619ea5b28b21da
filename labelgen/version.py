"""Version of the installed package, for `labelgen.__version__`."""

from importlib.metadata import version

VERSION = version("labelgen")
