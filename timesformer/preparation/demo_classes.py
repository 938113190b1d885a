"""The classes of the demo dataset."""

AXES = ("horizontal", "vertical", "diagonal", "size")
CLASSES = {
    "right": ("horizontal", False),
    "left": ("horizontal", True),
    "down": ("vertical", False),
    "up": ("vertical", True),
    "down_right": ("diagonal", False),
    "up_left": ("diagonal", True),
    "grow": ("size", False),
    "shrink": ("size", True),
}
"""The axis that a class moves along, and whether it plays that axis's path backwards."""
