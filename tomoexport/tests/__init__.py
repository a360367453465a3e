"""The tests. Scipion's test command runs those of `protocols/`; pytest runs the others, and calls that command too."""
import os


def load_tests(loader, tests, pattern):
    """Lead unittest, on which Scipion's discovery rests, to the protocol tests alone: the others need pytest."""
    here = os.path.dirname(os.path.abspath(__file__))
    return loader.discover(
        os.path.join(here, "protocols"),
        pattern=pattern or "test*.py",
        top_level_dir=os.path.dirname(os.path.dirname(here)),
    )
