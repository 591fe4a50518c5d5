# SPDX-License-Identifier: GPL-2.0-or-later
"""From a capture back to a machine: the QEMU command line that rebuilds its PCI topology and its IOMMU."""
