# SPDX-License-Identifier: MIT
"""How fast nsapi is, beside the least that the kernel takes for the same job and beside other ways to do it."""
