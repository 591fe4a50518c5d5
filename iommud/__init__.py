# SPDX-License-Identifier: GPL-2.0-or-later
"""Recomputes the IOMMU groups of a Linux machine and says where the kernel's differ, and why."""

__version__ = "0.1.0"
