"""What sphinx-build needs to know. The reference is made of nsapi's docstrings, so nsapi must be installed."""

from importlib import metadata

project = "nsapi"
author = "the nsapi maintainers"
release = metadata.version("nsapi")

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"
manpages_url = "https://man7.org/linux/man-pages/man{section}/{page}.{section}.html"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "alabaster"
html_theme_options = {"description": "Linux namespaces for Python", "page_width": "1080px", "sidebar_width": "240px"}
html_show_copyright = False
